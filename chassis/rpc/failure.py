"""Turns whatever goes wrong in a call into a status that its caller may see: one table from exceptions to codes."""

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


# Reasons, or none, by which a service speaks of itself, and of us who called without a token.
_ITS_LOAD = frozenset(("", "OVERLOADED"))
_OUR_OMISSION = frozenset(("", "TOKEN_MISSING"))

_Becomes = Callable[[Any], MeshError]


def _passed_on(error: grpc.aio.AioRpcError) -> MeshError:
    # Without a reason nobody can say what it is about.
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

# What the failure of a call to another service becomes, and why. What that service says about the request holds for our
# caller too; what it says about us, or about itself, does not. A code that is not here becomes INTERNAL.
DEPENDENCY: Mapping[grpc.StatusCode, tuple[_Becomes, str]] = {
    _code.INVALID_ARGUMENT: (_passed_on, "The caller's words went into the request."),
    _code.NOT_FOUND: (_passed_on, "The caller named what is not there."),
    _code.ALREADY_EXISTS: (_passed_on, "The caller asked for what is taken."),
    _code.FAILED_PRECONDITION: (_passed_on, "The state of things forbids it, whoever asks for it."),
    _code.ABORTED: (_passed_on, "The caller is the one who can read again and repeat."),
    _code.UNAUTHENTICATED: (_token, "The caller's token was sent on, and expired or was revoked on the way."),
    _code.RESOURCE_EXHAUSTED: (
        _quota,
        "A quota is the caller's own; a busy server is not, and may be tried again.",
    ),
    _code.UNAVAILABLE: (_out_of_reach, "The call cannot be served without it now."),
    _code.CANCELLED: (
        _out_of_reach,
        "Its process or our channel to it was closed; a call that we cancel raises none.",
    ),
    _code.DEADLINE_EXCEEDED: (
        _answer(deadline_exceeded),
        "What it was given was the rest of our caller's time.",
    ),
}

# What an exception of a library becomes. The first class that fits decides, so the narrower one stands above the wider.
LIBRARIES: Sequence[tuple[type[BaseException], _Becomes, str]] = (
    (psycopg.errors.QueryCanceled, _answer(deadline_exceeded), "statement_timeout"),
    (psycopg.errors.SerializationFailure, _answer(conflict), "another transaction was faster"),
    (psycopg.errors.DeadlockDetected, _answer(conflict), "another transaction was chosen to go on"),
    (psycopg.errors.LockNotAvailable, _answer(conflict), "lock_timeout"),
    (sqlalchemy.orm.exc.StaleDataError, _answer(conflict), "the row's version moved on"),
    (PoolBusy, _answer(overloaded), "our own connections are all taken"),
    (psycopg_pool.PoolTimeout, _answer(unavailable), "no connection can be made"),
    (psycopg_pool.PoolClosed, _answer(unavailable), "the process drains"),
    (
        psycopg_pool.TooManyRequests,
        _answer(unavailable),
        "no connection can be made, and others wait for one",
    ),
    (psycopg.errors.IdleInTransactionSessionTimeout, _answer(unavailable), "PostgreSQL ended our connection"),
    (psycopg.OperationalError, _answer(unavailable), "refused, broken or shut down connections"),
    (sqlalchemy.exc.TimeoutError, _answer(unavailable), "the pool behind the session"),
    (asyncio.TimeoutError, _answer(deadline_exceeded), "a limit of time inside the handler"),
    (grpc.aio.AioRpcError, lambda error: DEPENDENCY.get(error.code(), _FAULT)[0](error), "the table above"),
)
_FAULT: tuple[_Becomes, str] = (_answer(internal), "It says nothing that a caller could act upon.")


def from_exception(error: BaseException) -> MeshError:
    """What the caller is told about an exception: of a foreign one, never its text."""
    if isinstance(error, MeshError):
        return error
    # SQLAlchemy wraps the driver's exception; the table speaks of the driver's.
    cause = getattr(error, "orig", None) or error
    for kind, becomes, _ in LIBRARIES:
        if isinstance(cause, kind):
            return becomes(cause)
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
