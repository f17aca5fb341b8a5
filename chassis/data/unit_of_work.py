"""The unit of work: rows, the events about them and the call's idempotency claim, in one transaction."""

import asyncio
from collections.abc import Mapping
from contextvars import ContextVar
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

from google.protobuf.message import Message
from psycopg import AsyncConnection
from sqlalchemy import Executable, Result
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from chassis.data import outbox, sql_spans
from chassis.data.queries import Outcome, Prepared, Row

Entity = TypeVar("Entity")
Answer = TypeVar("Answer", bound=Message)


class Claim(Protocol):
    """The unit of work's view of the call's idempotency key."""

    async def fence(self, work: "UnitOfWork", answer: Message | None) -> None:
        """Lets the transaction commit, with the answer if there is one, only if the call still holds its key."""

    def committed(self, answer: Message | None) -> None:
        """Notes that the transaction was committed, and the answer with it."""


# The claim of the current call; the idempotency stage sets it.
current_claim: ContextVar[Claim | None] = ContextVar("current_claim", default=None)


class Audit(Protocol):
    """The unit of work's view of the call's audit record."""

    async def write(self, work: "UnitOfWork") -> None:
        """Writes the record in the transaction, unless an earlier transaction did."""

    def committed(self) -> None:
        """Notes that the transaction was committed, and the record with it."""


# The audit record of the current call; the audit stage sets it.
current_audit: ContextVar[Audit | None] = ContextVar("current_audit", default=None)


_closing: set[asyncio.Future[None]] = set()


def _closed(closing: "asyncio.Future[None]") -> None:
    _closing.discard(closing)
    if not closing.cancelled():
        closing.exception()  # a task that waits still gets it; without one, a failed rollback is not worth a log line


class UnitOfWork:
    """A transaction: committed on a clean exit, rolled back otherwise.

    SQLAlchemy's version guard (`version_id_col`) raises StaleDataError when another transaction changed the row first;
    the pipeline turns that into ABORTED.
    """

    def __init__(self, sessions: async_sessionmaker[AsyncSession], events_written: asyncio.Event) -> None:
        self.session = sessions()
        self._connection: AsyncConnection[Any] | None = None
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
        # Rolls back what is not committed, in a separate task: a cancellation must not keep the connection from the
        # pool, and a server that hangs must not hold up a cancelled task.
        closing = asyncio.ensure_future(self.session.close())
        _closing.add(closing)
        closing.add_done_callback(_closed)
        task = asyncio.current_task()
        if task is None or not task.cancelling():
            await asyncio.shield(closing)

    async def _commit(self) -> None:
        # The rows come first, so that their locks put events about one aggregate in the order of its changes.
        await self.flush()
        await outbox.write(self, self._events)
        if self._claim is not None:
            await self._claim.fence(self, self._answer)
        if self._audit is not None:
            await self._audit.write(self)
        with sql_spans.span("COMMIT"):
            await self.session.commit()
        if self._claim is not None:
            self._claim.committed(self._answer)
        if self._audit is not None:
            self._audit.committed()
        if self._events:
            self._events_written.set()

    def add(self, entity: object) -> None:
        """Adds a new entity, which is inserted with the next flush."""
        self.session.add(entity)

    async def save(self, entity: object) -> None:
        """Writes a new or changed entity now: its version increases, and a violated constraint is raised here."""
        self.session.add(entity)
        await self.session.flush()

    async def delete(self, entity: object) -> None:
        """Deletes an entity now."""
        await self.session.delete(entity)
        await self.session.flush()

    async def flush(self) -> None:
        """Writes what was changed through the session; costs nothing when there are no changes."""
        if self.session.new or self.session.dirty or self.session.deleted:
            await self.session.flush()

    async def execute(self, statement: Executable, parameters: Any = None) -> Result[Any]:
        """Runs a statement in the transaction."""
        return await self.session.execute(statement, parameters)

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
        if self._connection is None:
            pooled = await (await self.session.connection()).get_raw_connection()
            self._connection = pooled.driver_connection
            assert self._connection is not None
        return await statement.execute(self._connection, parameters)

    async def get(self, entity_type: type[Entity], id: Any, *, for_update: bool = False) -> Entity | None:
        """Returns the entity with this primary key, if there is one; `for_update` locks it until the end."""
        return await self.session.get(entity_type, id, with_for_update=for_update or None)

    def publish(self, event: Message, *, version: int = 0) -> None:
        """Publishes an event once the transaction is committed; `version` is the aggregate's, if it has one.

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
