"""Failures: turns every exception of a call into a status that its caller may see, by one table."""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

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


# The reasons, "" for none, that are about the other service itself, or about our call that had no token.
_ITS_LOAD = frozenset(("", "OVERLOADED"))
_OUR_OMISSION = frozenset(("", "TOKEN_MISSING"))

_Becomes = Callable[[Any], MeshError]


def _passed_on(error: grpc.aio.AioRpcError) -> MeshError:
    # Without a reason, it is unknown what the failure is about.
    return from_rpc(error) if reason_of(error) else internal()


def _quota(error: grpc.aio.AioRpcError) -> MeshError:
    return _out_of_reach(error) if reason_of(error) in _ITS_LOAD else from_rpc(error)


def _token(error: grpc.aio.AioRpcError) -> MeshError:
    return internal() if reason_of(error) in _OUR_OMISSION else from_rpc(error)


def _out_of_reach(error: grpc.aio.AioRpcError) -> MeshError:
    failure = unavailable()
    failure.retry_after = from_rpc(error).retry_after
    return failure


def _answer(failure: Callable[[], MeshError]) -> _Becomes:
    return lambda _: failure()


_code = grpc.StatusCode

# The error for a failed call to another service, and why. What that service says about the request applies to our
# caller too; what it says about us or about itself does not. A code that is not listed becomes INTERNAL.
DEPENDENCY: Mapping[grpc.StatusCode, tuple[_Becomes, str]] = {
    _code.INVALID_ARGUMENT: (_passed_on, "The caller's input went into the request."),
    _code.NOT_FOUND: (_passed_on, "The caller named something that does not exist."),
    _code.ALREADY_EXISTS: (_passed_on, "The caller asked for something that is taken."),
    _code.FAILED_PRECONDITION: (_passed_on, "The current state does not allow it, whoever asks."),
    _code.ABORTED: (_passed_on, "Only the caller can read again and retry."),
    _code.UNAUTHENTICATED: (
        _token,
        "The caller's token was forwarded, and expired or was revoked on the way.",
    ),
    _code.RESOURCE_EXHAUSTED: (
        _quota,
        "A quota belongs to the caller; a busy server does not, and the call may be retried.",
    ),
    _code.UNAVAILABLE: (_out_of_reach, "The call cannot be served without that service now."),
    _code.CANCELLED: (
        _out_of_reach,
        "Its process or our channel to it was closed; a call that we cancel ourselves does not raise this.",
    ),
    _code.DEADLINE_EXCEEDED: (
        _answer(deadline_exceeded),
        "The call to it had all the time that was left of our caller's.",
    ),
}

# The error for an exception of a library. The first class that matches decides, so narrower classes come first.
LIBRARIES: Sequence[tuple[type[BaseException], _Becomes, str]] = (
    (psycopg.errors.QueryCanceled, _answer(deadline_exceeded), "statement_timeout"),
    (psycopg.errors.SerializationFailure, _answer(conflict), "another transaction was faster"),
    (psycopg.errors.DeadlockDetected, _answer(conflict), "another transaction was chosen to continue"),
    (psycopg.errors.LockNotAvailable, _answer(conflict), "lock_timeout"),
    (sqlalchemy.orm.exc.StaleDataError, _answer(conflict), "another transaction changed the row's version"),
    (PoolBusy, _answer(overloaded), "our own connections are all taken"),
    (psycopg_pool.PoolTimeout, _answer(unavailable), "no connection can be made"),
    (psycopg_pool.PoolClosed, _answer(unavailable), "the process is draining"),
    (
        psycopg_pool.TooManyRequests,
        _answer(unavailable),
        "no connection can be made, and others wait for one",
    ),
    (psycopg.errors.IdleInTransactionSessionTimeout, _answer(unavailable), "PostgreSQL ended our connection"),
    (psycopg.OperationalError, _answer(unavailable), "refused, broken or shut down connections"),
    (sqlalchemy.exc.TimeoutError, _answer(unavailable), "the pool behind the session"),
    (asyncio.TimeoutError, _answer(deadline_exceeded), "a time limit inside the handler"),
    (grpc.aio.AioRpcError, lambda error: DEPENDENCY.get(error.code(), _FAULT)[0](error), "the table above"),
)
_FAULT: tuple[_Becomes, str] = (_answer(internal), "A caller could not act on it.")


def from_exception(error: BaseException) -> MeshError:
    """Returns the error that the caller gets for an exception; it never includes the text of a foreign exception."""
    if isinstance(error, MeshError):
        return error
    # SQLAlchemy wraps the driver's exceptions, which the table lists.
    cause = getattr(error, "orig", None) or error
    for kind, becomes, _ in LIBRARIES:
        if isinstance(cause, kind):
            return becomes(cause)
    return internal()


def failure_of(error: BaseException, call: Call) -> MeshError:
    """Returns the error for a call that ended with an exception. Re-raises a cancellation of the call itself."""
    if isinstance(error, MeshError):
        return error
    if isinstance(error, asyncio.CancelledError):
        if call.limit is not None and call.limit.expired():
            return deadline_exceeded()
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise error
        # Something inside was cancelled, but not the call itself.
        logger.error("%s awaited a task that was cancelled", call.method.full_name, exc_info=error)
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
