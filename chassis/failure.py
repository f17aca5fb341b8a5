"""Turns whatever goes wrong in a call into a status that its caller may see."""

import asyncio
import logging

import grpc

from chassis.call import Call
from chassis.errors import Internal, MeshError, from_exception, internal

logger = logging.getLogger(__name__)


def failure_of(error: BaseException, call: Call) -> MeshError:
    """What a call is answered that ended with an exception. Raises the cancellation of the call itself on."""
    if isinstance(error, MeshError):
        return error
    if isinstance(error, asyncio.CancelledError):
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise error
        # Something inside was cancelled, and nobody asked for the call to be.
        logger.error("%s awaited what was cancelled", call.method.full_name, exc_info=error)
        return internal()
    if not isinstance(error, Exception):
        raise error
    failure = from_exception(error)
    _log(error, failure, call)
    return failure


def _log(error: Exception, failure: MeshError, call: Call) -> None:
    if isinstance(failure, Internal):
        logger.error("%s failed", call.method.full_name, exc_info=error)
    elif not isinstance(error, grpc.aio.AioRpcError):
        logger.warning("%s: %s became %s", call.method.full_name, type(error).__name__, failure)
