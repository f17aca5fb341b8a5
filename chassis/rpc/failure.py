"""Turns whatever goes wrong in a call into a status that its caller may see: one table from exceptions to codes."""

import asyncio
import logging

import grpc
import psycopg
import psycopg_pool
import sqlalchemy.exc
import sqlalchemy.orm.exc

from chassis.core.errors import (
    Internal,
    MeshError,
    conflict,
    deadline_exceeded,
    from_rpc,
    internal,
    overloaded,
    reason_of,
    unavailable,
)
from chassis.data.pool import PoolBusy
from chassis.rpc.call import Call

logger = logging.getLogger(__name__)


# What another server says about the request holds for our caller too; what it says about us does not.
_PASSED_ON = frozenset(
    (
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.ABORTED,
    )
)


# The first row that fits decides, so the narrower class stands above the wider one.
_TABLE = (
    (psycopg.errors.QueryCanceled, deadline_exceeded),  # statement_timeout
    (psycopg.errors.SerializationFailure, conflict),
    (psycopg.errors.DeadlockDetected, conflict),
    (psycopg.errors.LockNotAvailable, conflict),  # lock_timeout
    (sqlalchemy.orm.exc.StaleDataError, conflict),  # the row's version moved on
    (PoolBusy, overloaded),
    (psycopg_pool.PoolTimeout, unavailable),
    (psycopg_pool.PoolClosed, unavailable),
    (psycopg_pool.TooManyRequests, unavailable),
    (psycopg.errors.IdleInTransactionSessionTimeout, unavailable),
    (psycopg.OperationalError, unavailable),  # refused, broken or shut down connections
    (sqlalchemy.exc.TimeoutError, unavailable),  # the pool behind the session
    (asyncio.TimeoutError, deadline_exceeded),
)


def from_exception(error: BaseException) -> MeshError:
    """What the caller is told about an exception: of a foreign one, never its text."""
    if isinstance(error, MeshError):
        return error
    if isinstance(error, grpc.aio.AioRpcError):
        return _from_dependency(error)
    # SQLAlchemy wraps the driver's exception; the table speaks of the driver's.
    cause = getattr(error, "orig", None) or error
    for kind, answer in _TABLE:
        if isinstance(cause, kind):
            return answer()
    return internal()


def _from_dependency(error: grpc.aio.AioRpcError) -> MeshError:
    if error.code() in _PASSED_ON and reason_of(error):
        return from_rpc(error)
    if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        return deadline_exceeded()
    if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED):
        return unavailable()
    return internal()


def failure_of(error: BaseException, call: Call) -> MeshError:
    """What a call is answered that ended with an exception. Raises the cancellation of the call itself on."""
    if isinstance(error, MeshError):
        return error
    if isinstance(error, asyncio.CancelledError):
        if call.limit is not None and call.limit.expired():
            return deadline_exceeded()
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
