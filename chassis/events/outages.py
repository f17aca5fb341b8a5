"""Outages: errors that occur while an event is handled but say nothing about the event."""

import socket
from collections.abc import Iterator

import grpc
import psycopg
import psycopg_pool

from chassis.core.errors import MeshError
from chassis.events import broker

# Classes of SQLSTATE (PostgreSQL, appendix A): connection, insufficient resources, operator intervention, system.
_OUTAGE_CLASSES = ("08", "53", "57P", "58")
# A former primary that accepts no writes.
_OUTAGE_STATES = ("25006",)
_POOL = (psycopg_pool.PoolTimeout, psycopg_pool.PoolClosed, psycopg_pool.TooManyRequests)
_NETWORK = (ConnectionError, socket.gaierror)
_UNAVAILABLE = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
)


def is_outage(error: BaseException) -> bool:
    """Whether an error, or one of its causes, means that something is unreachable now."""
    return any(_of_database(each) or _of_dependency(each) for each in _causes(error))


def is_database_outage(error: BaseException) -> bool:
    """Whether the consumer's own database is unreachable, so that no other event can be handled either."""
    return any(_of_database(each) for each in _causes(error))


def _causes(error: BaseException) -> Iterator[BaseException]:
    yield error
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from _causes(each)
    # SQLAlchemy wraps the driver's exception, which is also the cause.
    if error.__cause__ is not None:
        yield from _causes(error.__cause__)


def _of_database(error: BaseException) -> bool:
    if isinstance(error, _POOL):
        return True
    if not isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
        return False
    # Without a state the connection broke or was never made. A statement that was too slow or hit a lock has a state.
    state = error.sqlstate
    return state is None or state.startswith(_OUTAGE_CLASSES) or state in _OUTAGE_STATES


def _of_dependency(error: BaseException) -> bool:
    if isinstance(error, grpc.aio.AioRpcError):
        return error.code() in _UNAVAILABLE
    if isinstance(error, MeshError):
        return error.code in _UNAVAILABLE
    return isinstance(error, _NETWORK) or broker.is_away(error)
