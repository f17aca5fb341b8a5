"""A service's own PostgreSQL: one pool under two paths, the session for writes and prepared reads."""

import select
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Self

from psycopg import AsyncConnection, AsyncCursor
from psycopg._connection_base import NoticeHandler
from psycopg.rows import namedtuple_row
from psycopg_pool import AsyncConnectionPool
from sqlalchemy import MetaData, NullPool
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine

from chassis.core.settings import Settings
from chassis.data import sql_spans
from chassis.data.queries import Query, Row
from chassis.data.unit_of_work import UnitOfWork

CHECKOUT_SECONDS = 1.0
STATEMENT_MILLISECONDS = 2000
LOCK_MILLISECONDS = 1000
IDLE_IN_TRANSACTION_MILLISECONDS = 10_000

_SERVER_SETTINGS = (
    f"-c statement_timeout={STATEMENT_MILLISECONDS} -c lock_timeout={LOCK_MILLISECONDS} "
    f"-c idle_in_transaction_session_timeout={IDLE_IN_TRANSACTION_MILLISECONDS} -c timezone=UTC"
)

# Constraints get the same names in every database, so that migrations can speak of them.
_NAMING = {
    "ix": "%(table_name)s_%(column_0_N_name)s_idx",
    "uq": "%(table_name)s_%(column_0_N_name)s_key",
    "ck": "%(table_name)s_%(constraint_name)s_check",
    "fk": "%(table_name)s_%(column_0_N_name)s_fkey",
    "pk": "%(table_name)s_pkey",
}


def metadata() -> MetaData:
    """The catalogue of a service's tables: `class Model(DeclarativeBase): metadata = database.metadata()`."""
    return MetaData(naming_convention=_NAMING)


class _Connection(AsyncConnection[Any]):
    """SQLAlchemy hangs its notice logger on a connection at each checkout; a pooled one wants it once."""

    _logs_notices = False

    def add_notice_handler(self, callback: NoticeHandler) -> None:
        if not self._logs_notices:
            self._logs_notices = True
            super().add_notice_handler(callback)


class Database:
    """The pool and its two paths. Opening does not wait for PostgreSQL, and a restart of it is survived.

    Errors, mapped to canonical codes by the pipeline: PoolTimeout when no connection came within 1 s,
    psycopg's and SQLAlchemy's own from statements. Cancelling the task cancels its statement on the server.
    """

    def __init__(
        self, url: str, *, name: str = "protomesh", pool_size: int = 10, cursor_secret: str = ""
    ) -> None:
        self.name = name
        self._url = url
        self.cursor_secret = cursor_secret.encode()
        self.pool = AsyncConnectionPool[_Connection](
            url,
            connection_class=_Connection,
            kwargs={"options": _SERVER_SETTINGS, "application_name": name, "autocommit": True},
            configure=_configure,
            min_size=min(2, pool_size),
            max_size=pool_size,
            timeout=CHECKOUT_SECONDS,
            # Short, since the pool doubles its pause at each attempt: PostgreSQL is found again within 2 s.
            reconnect_timeout=2.0,
            close_returns=True,
            open=False,
            name=name,
        )
        self.engine: AsyncEngine = create_async_engine(
            "postgresql+psycopg://",
            async_creator=self._transactional,
            poolclass=NullPool,
            # The dialect would ask for the hstore type at its first connection.
            use_native_hstore=False,
            # The text of an exception is logged.
            hide_parameters=True,
        )
        sql_spans.instrument(self.engine)
        self._sessions = async_sessionmaker(self.engine, class_=AsyncSession, expire_on_commit=False)

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """The database that the settings name."""
        return cls(
            settings.database_url,
            name=settings.service,
            pool_size=settings.database_pool_size,
            cursor_secret=settings.cursor_secret,
        )

    async def open(self) -> None:
        """Starts to connect, and returns at once."""
        await self.pool.open()

    async def close(self) -> None:
        """Closes what is idle; what is in use closes when it comes back."""
        await self.pool.close()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def unit_of_work(self) -> UnitOfWork:
        """One transaction: `async with database.unit_of_work() as work`."""
        return UnitOfWork(self._sessions)

    async def one(self, query: Query, **parameters: Any) -> Row | None:
        """The first row of a query, or None."""
        rows = await self.all(query, **parameters)
        return rows[0] if rows else None

    async def all(self, query: Query, **parameters: Any) -> list[Row]:
        """All rows of a query, outside any transaction."""
        connection = await self._checkout()
        try:
            if not connection.autocommit:
                await connection.set_autocommit(True)
            cursor = AsyncCursor[Row](connection, row_factory=namedtuple_row)
            with sql_spans.span(query.sql) as span:
                await cursor.execute(query.sql, query.values(parameters), prepare=True)
                rows = await cursor.fetchall()
                span.set_rows(len(rows))
        finally:
            await self.pool.putconn(connection)
        return query.rows(rows)

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[AsyncConnection[Any]]:
        """A pooled connection in autocommit, for the chassis's own bookkeeping."""
        connection = await self._checkout()
        try:
            if not connection.autocommit:
                await connection.set_autocommit(True)
            yield connection
        finally:
            await self.pool.putconn(connection)

    async def connect(self) -> AsyncConnection[Any]:
        """A connection of its own beside the pool, in autocommit, for who must hold one long, such as LISTEN."""
        # TCP tells in half a minute that the server's machine is gone: nobody writes on such a connection.
        return await AsyncConnection.connect(
            self._url,
            autocommit=True,
            application_name=f"{self.name}-listen",
            keepalives_idle=10,
            keepalives_interval=5,
            keepalives_count=3,
        )

    async def _transactional(self) -> _Connection:
        connection = await self._checkout()
        if connection.autocommit:
            await connection.set_autocommit(False)
        return connection

    async def _checkout(self) -> _Connection:
        """A live connection. The pool's own check costs a round trip, and pauses between dead connections."""
        deadline = time.monotonic() + CHECKOUT_SECONDS
        while True:
            connection = await self.pool.getconn(timeout=deadline - time.monotonic())
            if not _has_news(connection) or await _answers(connection):
                return connection
            await self.pool.putconn(connection)  # which replaces it


async def _configure(connection: AsyncConnection[Any]) -> None:
    # The default of 100 would throw statements out that a service of many listings still needs.
    connection.prepared_max = 500


def _has_news(connection: AsyncConnection[Any]) -> bool:
    """Whether an idle connection's socket has something to read: mostly the news that the server is gone."""
    if connection.closed:
        return True
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return bool(poll.poll(0))


async def _answers(connection: AsyncConnection[Any]) -> bool:
    try:
        await AsyncConnectionPool.check_connection(connection)
    except Exception:  # noqa: BLE001 (whatever it is, the connection is of no use)
        return False
    return True
