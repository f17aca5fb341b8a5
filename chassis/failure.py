"""The stage that turns whatever goes wrong into a status that a caller may see."""

import asyncio
import logging
from typing import Any

import grpc

from chassis.call import Call
from chassis.contract import MethodContract
from chassis.errors import Internal, MeshError, from_exception, internal
from chassis.stage import Proceed

logger = logging.getLogger(__name__)


class Errors:
    """Leaves the failure in `call.failure`; only the cancellation of the call itself goes further out."""

    def __init__(self, contract: MethodContract) -> None:
        # The messages of a server stream are written as they come, and nothing is left to answer.
        self._answer_class = type(None) if contract.server_streaming else contract.response_class

    async def __call__(self, request: Any, call: Call, proceed: Proceed) -> Any:
        try:
            answer = await proceed(request, call)
            if type(answer) is self._answer_class:
                return answer
            raise TypeError(f"{call.method.full_name} answered with {type(answer)}.")
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
