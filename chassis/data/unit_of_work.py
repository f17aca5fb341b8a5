"""The unit of work: rows, the events about them and the call's idempotency claim, in one transaction."""

import asyncio
import contextlib
from collections.abc import Awaitable, Iterator, Mapping
from contextvars import ContextVar
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

import psycopg
from google.protobuf.message import Message
from psycopg.pq import TransactionStatus
from sqlalchemy import Executable, Result
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from chassis.data import outbox, sql_spans
from chassis.data.pool import Connection
from chassis.data.queries import Outcome, Prepared, Row, Step, execute_together

Entity = TypeVar("Entity")
Answer = TypeVar("Answer", bound=Message)


class Claim(Protocol):
    """The unit of work's view of the call's idempotency key."""

    def fence(self, answer: Message | None) -> Step:
        """Returns the write of the answer, if there is one; it changes no row if the call no longer holds its key."""

    def lose(self) -> Exception:
        """Notes that the call no longer holds its key, and returns the error for it."""

    def committed(self, answer: Message | None) -> None:
        """Notes that the transaction was committed, and the answer with it."""


# The claim of the current call; the idempotency stage sets it.
current_claim: ContextVar[Claim | None] = ContextVar("current_claim", default=None)


class Audit(Protocol):
    """The unit of work's view of the call's audit record."""

    def record(self) -> Step | None:
        """Returns the write of the record; None when an earlier transaction wrote it."""

    def committed(self) -> None:
        """Notes that the transaction was committed, and the record with it."""


# The audit record of the current call; the audit stage sets it.
current_audit: ContextVar[Audit | None] = ContextVar("current_audit", default=None)


# Rollbacks that nobody may wait for; a task without a reference could vanish.
_closing: set[asyncio.Future[None]] = set()


class Connections(Protocol):
    """The unit of work's view of its database."""

    async def take(self) -> Connection:
        """Returns a connection that begins a transaction with its next statement."""

    def give_back(self, connection: Connection) -> None:
        """Takes a connection back."""

    def joined(self, connection: Connection) -> Awaitable[AsyncConnection]:
        """Returns SQLAlchemy's view of a connection, which stays in the same transaction."""


class UnitOfWork:
    """A transaction: committed on a clean exit, rolled back otherwise.

    Prepared statements run on its connection directly. The first entity, or the first statement that is not prepared,
    starts a session of SQLAlchemy on the same connection. SQLAlchemy's version guard (`version_id_col`) raises
    StaleDataError when another transaction changed the row first; the pipeline turns that into ABORTED.
    """

    def __init__(self, connections: Connections, events_written: asyncio.Event) -> None:
        self._connections = connections
        self._connection: Connection | None = None
        self._joined: AsyncConnection | None = None
        self._session: AsyncSession | None = None
        self._added: list[object] = []
        self._ended = False
        self._events_written = events_written
        self._events: list[outbox.Draft] = []
        self._answer: Message | None = None
        self._claim = current_claim.get()
        self._audit = current_audit.get()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                await self._commit()
        finally:
            await self._leave()

    async def _leave(self) -> None:
        self._ended = True
        connection = self._connection
        if connection is None:
            return
        if self._joined is None and connection.pgconn.transaction_status == TransactionStatus.IDLE:
            self._connections.give_back(connection)
            return
        # Rolls back what is not committed, in a separate task: a cancellation must not keep the connection from the
        # pool, and a server that hangs must not hold up a cancelled task.
        closing = asyncio.ensure_future(self._roll_back(connection))
        _closing.add(closing)
        closing.add_done_callback(_closing.discard)
        task = asyncio.current_task()
        if task is None or not task.cancelling():
            await asyncio.shield(closing)

    async def _roll_back(self, connection: Connection) -> None:
        # A connection that cannot roll back is not lent again, so its failure must not hide the one before it.
        try:
            with contextlib.suppress(psycopg.Error, DBAPIError):
                await connection.rollback()  # sends nothing after a commit
                if self._session is not None and self._joined is not None:
                    await self._session.close()
                    await self._joined.close()
        finally:
            self._connections.give_back(connection)

    async def _commit(self) -> None:
        # The rows come first, so that their locks put events about one aggregate in the order of its changes.
        await self.flush()
        if steps := [*self._last_steps()]:
            changed = await execute_together(await self._connected(), steps)
            if self._claim is not None and not changed:
                raise self._claim.lose()
        if self._connection is not None:
            with sql_spans.span("COMMIT"):
                await self._connection.commit()
        if self._claim is not None:
            self._claim.committed(self._answer)
        if self._audit is not None:
            self._audit.committed()
        if self._events:
            self._events_written.set()

    def _last_steps(self) -> Iterator[Step]:
        """Yields what the chassis writes at the end of a transaction; the last one tells if the call holds its key."""
        if self._events:
            yield outbox.insertion(self._events)
        if self._audit is not None and (record := self._audit.record()) is not None:
            yield record
        if self._claim is not None:
            yield self._claim.fence(self._answer)

    async def _connected(self) -> Connection:
        """Returns the transaction's connection, which its first use takes."""
        if self._connection is None:
            connection = await self._connections.take()
            if self._ended or self._connection is not None:
                self._connections.give_back(connection)
                raise RuntimeError("A unit of work is for one task at a time, and not for later.")
            self._connection = connection
        return self._connection

    async def _in_session(self) -> AsyncSession:
        """Returns SQLAlchemy's session, with the entities that were added."""
        if self._session is None:
            self._joined = await self._connections.joined(await self._connected())
            self._session = AsyncSession(self._joined, expire_on_commit=False)
        self._session.add_all(self._added)
        self._added.clear()
        return self._session

    def add(self, entity: object) -> None:
        """Adds a new entity, which is inserted with the next flush."""
        self._added.append(entity)

    async def save(self, entity: object) -> None:
        """Writes a new or changed entity now: its version increases, and a violated constraint is raised here."""
        self.add(entity)
        await (await self._in_session()).flush()

    async def delete(self, entity: object) -> None:
        """Deletes an entity now."""
        session = await self._in_session()
        await session.delete(entity)
        await session.flush()

    async def flush(self) -> None:
        """Writes what was changed through the session; costs nothing when there are no changes."""
        if self._added:
            await self._in_session()
        session = self._session
        if session is not None and (session.new or session.dirty or session.deleted):
            await session.flush()

    async def execute(self, statement: Executable, parameters: Any = None) -> Result[Any]:
        """Runs a statement in the transaction."""
        return await (await self._in_session()).execute(statement, parameters)

    async def all(self, statement: Prepared, **parameters: Any) -> list[Row]:
        """Returns the rows that a prepared statement finds, or that its RETURNING clause gives."""
        return (await self._run(statement, parameters)).rows

    async def one(self, statement: Prepared, **parameters: Any) -> Row | None:
        """Returns the first row of a prepared statement, or None."""
        rows = await self.all(statement, **parameters)
        return rows[0] if rows else None

    async def run(self, statement: Prepared, **parameters: Any) -> int:
        """Runs a prepared statement; returns how many rows it changed."""
        return (await self._run(statement, parameters)).rowcount

    async def _run(self, statement: Prepared, parameters: Mapping[str, Any]) -> Outcome:
        # Changes made through the session are written first, as with `execute`.
        await self.flush()
        return await statement.execute(await self._connected(), parameters)

    async def get(self, entity_type: type[Entity], id: Any, *, for_update: bool = False) -> Entity | None:
        """Returns the entity with this primary key, if there is one; `for_update` locks it until the end."""
        return await (await self._in_session()).get(entity_type, id, with_for_update=for_update or None)

    def publish(self, event: Message, *, version: int) -> None:
        """Publishes an event once the transaction is committed.

        `version` is the aggregate's after the change, by which subscribers tell older states from newer ones; 0 when
        the event is about something that has none.

        Raises TypeError for a message that is not an event by its contract, ValueError for one that names no
        aggregate or is too large.
        """
        self._events.append(outbox.draft(event, version))

    def answer(self, message: Answer) -> Answer:
        """Stores the call's answer under its idempotency key in this transaction, and returns it.

        For a handler's last unit of work: no crash can then separate its effects from its answer.
        """
        self._answer = message
        return message
