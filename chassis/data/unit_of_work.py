"""The unit of work: rows, the events about them and the call's idempotency claim, in one transaction."""

import asyncio
from contextvars import ContextVar
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

from google.protobuf.message import Message
from sqlalchemy import Executable, Result
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from chassis.data import outbox, sql_spans

Entity = TypeVar("Entity")
Answer = TypeVar("Answer", bound=Message)


class Claim(Protocol):
    """What the unit of work knows of the call's idempotency key."""

    async def enter(self, session: AsyncSession) -> None:
        """Writes the claim in the session's transaction, unless an earlier one did."""

    def left(self, session: AsyncSession, *, committed: bool) -> None:
        """The session's transaction has ended."""

    async def answer(self, session: AsyncSession, message: Message) -> None:
        """Stores the call's answer in the session's transaction."""


# The claim of the call that is being answered; the idempotency stage sets it.
current_claim: ContextVar[Claim | None] = ContextVar("current_claim", default=None)


_closing: set[asyncio.Future[None]] = set()


def _closed(closing: "asyncio.Future[None]") -> None:
    _closing.discard(closing)
    if not closing.cancelled():
        closing.exception()  # who waits for it gets it; a rollback that failed without a waiter is no news


class UnitOfWork:
    """A transaction: committed on a clean exit, rolled back otherwise.

    SQLAlchemy's version guard (`version_id_col`) raises StaleDataError when somebody else was faster, which
    the pipeline answers ABORTED.
    """

    def __init__(self, sessions: async_sessionmaker[AsyncSession]) -> None:
        self.session = sessions()
        self._events: list[outbox.Draft] = []
        self._answer: Message | None = None
        self._claim = current_claim.get()

    async def __aenter__(self) -> Self:
        if self._claim is not None:
            try:
                await self._claim.enter(self.session)
            except BaseException:
                await self._leave(committed=False)
                raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        committed = False
        try:
            if kind is None:
                await self._commit()
                committed = True
        finally:
            await self._leave(committed=committed)

    async def _leave(self, *, committed: bool) -> None:
        # Rolls back what is not committed, in a task of its own: a cancellation must not keep the connection from the
        # pool, nor must a server that hangs keep a task that was cancelled.
        closing = asyncio.ensure_future(self.session.close())
        _closing.add(closing)
        closing.add_done_callback(_closed)
        task = asyncio.current_task()
        try:
            if task is None or not task.cancelling():
                await asyncio.shield(closing)
        finally:
            if self._claim is not None:
                self._claim.left(self.session, committed=committed)

    async def _commit(self) -> None:
        # First the rows, so that their locks put events about one aggregate in the order of its changes.
        await self.session.flush()
        await outbox.write(self.session, self._events)
        if self._claim is not None and self._answer is not None:
            await self._claim.answer(self.session, self._answer)
        with sql_spans.span("COMMIT"):
            await self.session.commit()

    def add(self, entity: object) -> None:
        """Has a new entity inserted."""
        self.session.add(entity)

    async def save(self, entity: object) -> None:
        """Writes a new or changed entity now: its version moves on, and a constraint that it breaks is told here."""
        self.session.add(entity)
        await self.session.flush()

    async def delete(self, entity: object) -> None:
        """Deletes an entity now."""
        await self.session.delete(entity)
        await self.session.flush()

    async def execute(self, statement: Executable, parameters: Any = None) -> Result[Any]:
        """Runs a statement in the transaction."""
        return await self.session.execute(statement, parameters)

    async def get(self, entity_type: type[Entity], id: Any, *, for_update: bool = False) -> Entity | None:
        """The entity with this primary key, if there is one; locked to the end when it is for an update."""
        return await self.session.get(entity_type, id, with_for_update=for_update or None)

    def publish(self, event: Message, *, version: int = 0) -> None:
        """Has an event sent once the transaction is committed; `version` is the aggregate's, if it has one.

        TypeError for a message that the contracts do not call an event, ValueError for one that names no
        aggregate or is too large.
        """
        self._events.append(outbox.draft(event, version))

    def answer(self, message: Answer) -> Answer:
        """Stores the call's answer under its idempotency key in this same transaction, and gives it back.

        For a handler's last unit of work: no crash can then come between its effects and its answer.
        """
        self._answer = message
        return message
