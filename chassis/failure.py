"""The stage that turns whatever goes wrong into a status that a caller may see."""

import asyncio
import logging
from typing import Any

import grpc

from chassis.call import Call
from chassis.errors import Internal, MeshError, from_exception, internal
from chassis.stage import Proceed

logger = logging.getLogger(__name__)


async def errors(request: Any, call: Call, proceed: Proceed) -> Any:
    """Leaves the failure in `call.failure`; only the cancellation of the call itself goes further out."""
    try:
        return await proceed(request, call)
    except MeshError as error:
        call.failure = error
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        # Something inside was cancelled, and nobody asked for the call to be.
        logger.exception("%s awaited what was cancelled", call.method.full_name)
        call.failure = internal()
    except Exception as error:  # noqa: BLE001 (nothing may leave the server as it is)
        call.failure = from_exception(error)
        _log(error, call)
    return None


def _log(error: Exception, call: Call) -> None:
    if isinstance(call.failure, Internal):
        logger.error("%s failed", call.method.full_name, exc_info=error)
    elif not isinstance(error, grpc.aio.AioRpcError):
        logger.warning("%s: %s became %s", call.method.full_name, type(error).__name__, call.failure)
