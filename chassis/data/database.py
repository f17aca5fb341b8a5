"""A service's own PostgreSQL database: pools under two paths, sessions for writes and prepared statements for reads."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any, Self

import psycopg
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from chassis.core.settings import Settings
from chassis.data import sql_spans
from chassis.data.bulkheads import Bulkhead, Bulkheads
from chassis.data.pool import Connection, SessionPool
from chassis.data.queries import Query, Row
from chassis.data.unit_of_work import UnitOfWork

STATEMENT_MILLISECONDS = 2000
LOCK_MILLISECONDS = 1000
IDLE_IN_TRANSACTION_MILLISECONDS = 10_000

_SERVER_SETTINGS = (
    f"-c statement_timeout={STATEMENT_MILLISECONDS} -c lock_timeout={LOCK_MILLISECONDS} "
    f"-c idle_in_transaction_session_timeout={IDLE_IN_TRANSACTION_MILLISECONDS} -c timezone=UTC"
)


# The connection that SQLAlchemy is about to join.
_lent: ContextVar[Connection] = ContextVar("lent")


class Database:
    """The pools and the two paths. Opening does not wait for PostgreSQL; restarts of PostgreSQL are survived.

    `pool_size` is the maximum number of connections of a process, divided by kinds of work (see `bulkheads`).

    Errors, mapped to canonical codes by the pipeline: PoolTimeout when no connection becomes available within 1 s,
    PoolBusy when too many tasks wait for one, psycopg's and SQLAlchemy's own for statements. Cancelling the task
    cancels its statement on the server.
    """

    def __init__(
        self, url: str, *, name: str = "protomesh", pool_size: int = 16, cursor_secret: str = ""
    ) -> None:
        self.name = name
        self.cursor_secret = cursor_secret.encode()
        self.bulkheads = Bulkheads(url, name=name, size=pool_size, options=_SERVER_SETTINGS)
        self._engine = create_async_engine(
            "postgresql+psycopg://",
            async_creator=_joinable,
            poolclass=SessionPool,
            pool_reset_on_return=None,
            # What SQLAlchemy would ask the server at first concerns tables that it creates or describes.
            _initialize=False,
            # Exception texts are logged, so they must not hold values.
            hide_parameters=True,
        )
        sql_spans.instrument(self._engine)
        # Set when a transaction with events has committed; the relay waits for it, and clears it.
        self.events_written = asyncio.Event()

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Returns the database that the settings name."""
        return cls(
            settings.database_url,
            name=settings.service,
            pool_size=settings.database_pool_size,
            cursor_secret=settings.cursor_secret,
        )

    async def open(self) -> None:
        """Starts to connect and returns immediately."""
        await self.bulkheads.open()

    async def close(self) -> None:
        """Closes idle connections; connections in use are closed when they are returned."""
        await self.bulkheads.close()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def unit_of_work(self) -> UnitOfWork:
        """Returns a unit of work, one transaction: `async with database.unit_of_work() as work`."""
        return UnitOfWork(self, self.events_written)

    async def one(self, query: Query, **parameters: Any) -> Row | None:
        """Returns the first row of a query, or None."""
        rows = await self.all(query, **parameters)
        return rows[0] if rows else None

    async def all(self, query: Query, **parameters: Any) -> list[Row]:
        """Returns all rows of a query, run outside any transaction."""
        connection = await self.bulkheads.take()
        try:
            if not connection.autocommit:
                await connection.set_autocommit(True)
            return (await query.execute(connection, parameters)).rows
        finally:
            self.bulkheads.give_back(connection)

    @asynccontextmanager
    async def connection(
        self, bulkhead: Bulkhead | None = None
    ) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
        """Yields a pooled connection in autocommit mode, of the given bulkhead or of the task's."""
        connection = await self.bulkheads.take(bulkhead)
        try:
            if not connection.autocommit:
                await connection.set_autocommit(True)
            yield connection
        finally:
            self.bulkheads.give_back(connection)

    async def take(self) -> Connection:
        """Returns a connection whose next statement begins a transaction; return it with `give_back`."""
        connection = await self.bulkheads.take()
        try:
            if connection.autocommit:
                await connection.set_autocommit(False)
        except BaseException:
            self.give_back(connection)
            raise
        return connection

    def give_back(self, connection: Connection) -> None:
        """Returns a connection to its pool."""
        self.bulkheads.give_back(connection)

    async def joined(self, connection: Connection) -> AsyncConnection:
        """Returns SQLAlchemy's view of a connection, in the same transaction; closing it leaves the connection open."""
        _lent.set(connection)
        return await self._engine.connect()


async def _joinable() -> Connection:
    return _lent.get()
