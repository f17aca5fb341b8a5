"""The inbox: what a consumer has handled, what it is failing at, and what has to wait for that."""

import uuid
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from psycopg.rows import namedtuple_row
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from chassis.data.database import Database

# More than streams keep (broker.EVENTS_KEPT), so that whatever can be delivered again is known.
RETENTION_DAYS = 30
_PURGE = f"""
    DELETE FROM inbox WHERE (consumer, event_id) IN (SELECT consumer, event_id FROM inbox
        WHERE handled_at < now() - interval '{RETENTION_DAYS} days' LIMIT 1000)
    """  # noqa: S608 (constants of ours)
_LONGEST_ERROR = 500

# One statement: is the event's turn come, and if so, is it new? A replayed event is new when it is on record as dead.
_TAKE = text("""
    WITH turn AS (
        SELECT CAST(:previous_id AS uuid) IS NULL OR EXISTS (
            SELECT FROM inbox WHERE consumer = :consumer AND event_id = CAST(:previous_id AS uuid)) AS come
    ), taken AS (
        INSERT INTO inbox (consumer, event_id)
        SELECT :consumer, CAST(:event_id AS uuid) FROM turn WHERE come
        ON CONFLICT (consumer, event_id) DO UPDATE SET outcome = 'handled', handled_at = now()
            WHERE inbox.outcome = 'dead' AND CAST(:replayed AS boolean)
        RETURNING 1
    )
    SELECT come, EXISTS (SELECT FROM taken) AS taken FROM turn
    """)
_RECOVERED = text("DELETE FROM inbox_failures WHERE consumer = :consumer AND event_id = :event_id")
# The earliest time at which something earlier of the same aggregate, or the event itself, is tried again.
_PENDING = """
    SELECT attempts, error, extract(epoch FROM next_attempt_at - now())::float8 AS seconds
    FROM inbox_failures WHERE consumer = %(consumer)s AND event_id = %(event_id)s
    """
_HELD_UP = """
    SELECT extract(epoch FROM min(next_attempt_at) - now())::float8 AS seconds
    FROM inbox_failures WHERE consumer = %(consumer)s AND aggregate_id = %(aggregate_id)s
    """
_FAIL = """
    INSERT INTO inbox_failures (consumer, event_id, aggregate_id, attempts, next_attempt_at, error)
    VALUES (%(consumer)s, %(event_id)s, %(aggregate_id)s, %(attempts)s, now() + %(delay)s, %(error)s)
    ON CONFLICT (consumer, event_id) DO UPDATE
    SET attempts = excluded.attempts, next_attempt_at = excluded.next_attempt_at, error = excluded.error
    """
_BURY = """
    WITH buried AS (DELETE FROM inbox_failures WHERE consumer = %(consumer)s AND event_id = %(event_id)s)
    INSERT INTO inbox (consumer, event_id, outcome) VALUES (%(consumer)s, %(event_id)s, 'dead')
    ON CONFLICT (consumer, event_id) DO NOTHING
    """
_KNOWN = "SELECT 1 FROM inbox WHERE consumer = %(consumer)s AND event_id = %(event_id)s"


@dataclass(frozen=True, slots=True)
class Failure:
    """How an event fails: attempts so far, seconds until the next (negative when it is due), the last error."""

    attempts: int
    seconds: float
    error: str


@dataclass(frozen=True, slots=True)
class Taken:
    """Whether an event's turn has come, and whether it is new to the consumer."""

    turn: bool
    new: bool


class Inbox:
    """The records of one consumer, in the database that its effects are in."""

    def __init__(self, database: Database, consumer: str) -> None:
        self._database = database
        self._consumer = consumer

    async def take(
        self, session: AsyncSession, event_id: uuid.UUID, previous_id: uuid.UUID | None, *, replayed: bool
    ) -> Taken:
        """Notes in the effects' transaction that the event is handled, if it is its turn and it is new."""
        values = {
            "consumer": self._consumer,
            "event_id": event_id,
            "previous_id": previous_id,
            "replayed": replayed,
        }
        row = (await session.execute(_TAKE, values)).one()
        return Taken(turn=row.come, new=row.taken)

    async def recovered(self, session: AsyncSession, event_id: uuid.UUID) -> None:
        """Forgets in the effects' transaction that the event had failed."""
        await session.execute(_RECOVERED, {"consumer": self._consumer, "event_id": event_id})

    async def failure(self, event_id: uuid.UUID) -> Failure | None:
        """How the event has failed so far."""
        row = await self._one(_PENDING, event_id=event_id)
        return None if row is None else Failure(row.attempts, row.seconds, row.error)

    async def held_up(self, aggregate_id: str) -> float | None:
        """Seconds until an event that fails of this aggregate is tried again; None when none fails."""
        row = await self._one(_HELD_UP, aggregate_id=aggregate_id)
        return None if row is None else row.seconds

    async def knows(self, event_id: uuid.UUID) -> bool:
        """Whether the event was handled, or given up."""
        return await self._one(_KNOWN, event_id=event_id) is not None

    async def fail(
        self, event_id: uuid.UUID, aggregate_id: str, attempts: int, delay: timedelta, error: str
    ) -> None:
        """Puts an attempt on record, and when the next is due."""
        values = {"aggregate_id": aggregate_id, "attempts": attempts, "delay": delay}
        await self._run(_FAIL, event_id=event_id, error=error[:_LONGEST_ERROR], **values)

    async def bury(self, event_id: uuid.UUID) -> None:
        """Notes that the event was given up, so that those behind it go on."""
        await self._run(_BURY, event_id=event_id)

    async def _one(self, statement: str, **values: Any) -> Any:
        async with self._database.connection() as connection:
            cursor = connection.cursor(row_factory=namedtuple_row)
            await cursor.execute(statement, {"consumer": self._consumer, **values})
            return await cursor.fetchone()

    async def _run(self, statement: str, **values: Any) -> None:
        async with self._database.connection() as connection:
            await connection.execute(statement, {"consumer": self._consumer, **values})


async def purge(database: Database) -> int:
    """Deletes a batch of what was handled long ago; returns how many."""
    async with database.connection() as connection:
        return (await connection.execute(_PURGE)).rowcount
