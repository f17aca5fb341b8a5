"""The connection pool, and connections that no cancellation can leak."""

import asyncio
import select
import time
from functools import cached_property
from typing import Any

from psycopg import AsyncConnection, AsyncRawCursor, errors, waiting
from psycopg._connection_base import NoticeHandler
from psycopg.abc import PQGen
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row
from psycopg_pool import AsyncConnectionPool, PoolTimeout
from sqlalchemy import NullPool
from sqlalchemy.pool import ConnectionPoolEntry

CHECKOUT_SECONDS = 1.0
# The weight of the last use in the mean time that a connection is lent for.
_SMOOTHING = 0.1
# How long a connection stays at hand before psycopg's pool has it back, which closes old and superfluous ones.
_AT_HAND_SECONDS = 1.0
# A server that vanished (its machine or the network died, so that nothing says the connection has ended) is noticed
# within 11 s, also by work without a deadline, such as the relay's. By default the kernel takes hours.
_VANISHED = {
    "tcp_user_timeout": 10_000,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
}
# How long a server may take to stop a statement whose task was cancelled. A server that hangs must not keep the caller
# waiting beyond its deadline: the connection is dropped instead.
_STOP_SECONDS = 0.05


class PoolBusy(PoolTimeout):
    """All connections are in use and none is returned soon enough: the database works, but the load is too high."""


class Pool:
    """A pool that lends connections.

    Raises PoolTimeout when the database accepts none within 1 s, PoolBusy when all are lent and none is returned in
    that time, and PoolBusy immediately when so many tasks wait already that none can be expected in time.
    """

    def __init__(self, url: str, *, name: str, size: int, options: str) -> None:
        self.size = size
        self.lent = self.waiting = self._served = 0
        self.mean_seconds = 0.0
        self._pool = AsyncConnectionPool[Connection](
            url,
            connection_class=Connection,
            kwargs={"options": options, "application_name": name, "autocommit": True, **_VANISHED},
            configure=_configure,
            min_size=min(2, size),
            max_size=size,
            timeout=CHECKOUT_SECONDS,
            # Short, since the pool doubles its pause at each attempt: this way it reconnects to PostgreSQL within 2 s.
            reconnect_timeout=2.0,
            open=False,
            name=name,
        )
        # Returned a moment ago. To psycopg's pool they are still lent: its own way out and in takes locks and a task.
        self._at_hand: list[Connection] = []
        self._tidying: asyncio.TimerHandle | None = None
        self._returns: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Starts to connect and returns immediately."""
        await self._pool.open()

    async def close(self) -> None:
        """Closes idle connections; connections in use are closed when they are returned."""
        await self._pool.close()
        self._tidy()
        await asyncio.gather(*self._returns)

    @property
    def idle(self) -> int:
        """The number of idle connections."""
        return self._pool.get_stats().get("pool_available", 0) + len(self._at_hand)

    async def take(self) -> "Connection":
        """Returns a live connection; return it with `give_back`. The pool's own check would cost a round trip."""
        deadline = time.monotonic() + CHECKOUT_SECONDS
        while True:
            connection = self._at_hand.pop() if self._at_hand else await self._next(deadline)
            self.lent += 1
            connection.lender, connection.lent_at = self, time.monotonic()
            try:
                if not connection.has_news or await _answers(connection):
                    self._served += 1
                    return connection
            except BaseException:
                self.give_back(connection)
                raise
            self.give_back(connection)  # which replaces it

    async def _next(self, deadline: float) -> "Connection":
        if self.lent >= self.size and self._expected_wait() > CHECKOUT_SECONDS:
            raise PoolBusy
        self.waiting += 1
        served = self._served
        try:
            return await self._pool.getconn(timeout=deadline - time.monotonic())
        except PoolTimeout:
            if self.lent >= self.size or self._served > served:
                raise PoolBusy from None
            raise
        finally:
            self.waiting -= 1

    def _expected_wait(self) -> float:
        """Returns the seconds until one more waiting task would get a connection, judged by recent uses."""
        return self.mean_seconds * (self.waiting + 1) / self.size

    def give_back(self, connection: "Connection") -> None:
        """Takes a connection back; no cancellation can interrupt that."""
        if connection.lender is None:
            return
        connection.lender = None
        self.lent -= 1
        self.mean_seconds += _SMOOTHING * (time.monotonic() - connection.lent_at - self.mean_seconds)
        usable = connection.pgconn.transaction_status == TransactionStatus.IDLE
        if not usable or self.waiting or self._pool.closed:
            self._return(connection)
            return
        self._at_hand.append(connection)
        if self._tidying is None:
            self._tidying = asyncio.get_running_loop().call_later(_AT_HAND_SECONDS, self._tidy)

    def _return(self, connection: "Connection") -> None:
        task = asyncio.get_running_loop().create_task(self._pool.putconn(connection))
        self._returns.add(task)
        task.add_done_callback(self._returns.discard)

    def _tidy(self) -> None:
        """Returns the connections at hand to psycopg's pool."""
        if self._tidying is not None:
            self._tidying.cancel()
            self._tidying = None
        while self._at_hand:
            self._return(self._at_hand.pop())


class Connection(AsyncConnection[Any]):
    """A pooled connection."""

    lender: Pool | None = None
    lent_at = 0.0
    _logs_notices = False

    def add_notice_handler(self, callback: NoticeHandler) -> None:
        """Adds a handler once: SQLAlchemy adds its notice logger to a connection at each checkout."""
        if not self._logs_notices:
            self._logs_notices = True
            super().add_notice_handler(callback)

    @cached_property
    def statements(self) -> AsyncRawCursor[tuple[Any, ...]]:
        """The cursor of prepared statements; a new one for each takes a fifth of a short query's CPU.

        What a statement returned must be fetched before the next await, when another task may execute.
        """
        return AsyncRawCursor(self, row_factory=tuple_row)

    @property
    def has_news(self) -> bool:
        """Whether there is data to read although nobody asked for any: usually the end of the connection."""
        if self.closed:
            return True
        poll = select.poll()
        poll.register(self.fileno(), select.POLLIN)
        return bool(poll.poll(0))

    async def wait(
        self,
        gen: PQGen[Any],
        interval: float = 0.1,
        timeout: float | None = None,  # noqa: ASYNC109 (psycopg's signature)
    ) -> Any:
        """Waits for the server. When cancelled, it gives the server a short time to stop the statement."""
        try:
            return await waiting.wait_async(gen, self.pgconn.socket, interval=interval, timeout=timeout)
        except asyncio.CancelledError:
            if self.pgconn.transaction_status == TransactionStatus.ACTIVE:
                await self._stop(gen)
            raise

    async def _stop(self, gen: PQGen[Any]) -> None:
        until = time.monotonic() + _STOP_SECONDS
        try:
            await self._try_cancel(timeout=_STOP_SECONDS)
            left = max(0.001, until - time.monotonic())
            await waiting.wait_async(gen, self.pgconn.socket, timeout=left)
        except errors.QueryCanceled:
            pass
        except BaseException as error:
            # The connection's state is unknown. The server notices that it is closed when it sends its response.
            self.pgconn.finish()
            if not isinstance(error, Exception):
                raise


class SessionPool(NullPool):
    """SQLAlchemy's view of connections that it does not own: it joins the one of a unit of work, and leaves it open."""

    def _do_return_conn(self, record: ConnectionPoolEntry) -> None:
        pass


async def _configure(connection: AsyncConnection[Any]) -> None:
    # With the default of 100, a service with many listings would evict statements that it still needs.
    connection.prepared_max = 500


async def _answers(connection: AsyncConnection[Any]) -> bool:
    try:
        await AsyncConnectionPool.check_connection(connection)
    except Exception:  # noqa: BLE001 (whatever it is, the connection is of no use)
        return False
    return True
