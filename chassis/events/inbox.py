"""The inbox: the events that a consumer has handled, those that fail, and those that have to wait for them."""

import asyncio
import datetime as dt
import time
import uuid
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from psycopg.rows import namedtuple_row
from sqlalchemy import text

from chassis.core import identifiers
from chassis.data.database import Database
from chassis.data.queries import Prepared
from chassis.data.unit_of_work import UnitOfWork
from chassis.events.delivery import Policy

# More than streams keep (streams.EVENTS_KEPT), so that every event that can be delivered again is known.
RETENTION_DAYS = 30
# When bookkeeping takes longer than this, the database does not respond.
_ANSWER_SECONDS = 5.0
_LONGEST_ERROR = 500
_DAY_SECONDS = 86_400.0

_PURGE = f"""
    DELETE FROM inbox WHERE (consumer, event_id) IN (SELECT consumer, event_id FROM inbox
        WHERE handled_at < now() - interval '{RETENTION_DAYS} days' LIMIT 1000)
    """  # noqa: S608 (constants of ours)

# One statement for many events: finds those that have to wait for a predecessor, and those of the others that are new.
# A replayed event is new when it is on record as dead.
_TAKE = Prepared(
    text("""
    WITH waiting AS (
        SELECT DISTINCT follower.event_id
        FROM unnest(CAST(:followers AS uuid[]), CAST(:predecessors AS uuid[])) AS follower (event_id, predecessor)
        WHERE NOT EXISTS (
            SELECT FROM inbox WHERE consumer = :consumer AND inbox.event_id = follower.predecessor)
    ), turn AS (
        SELECT event_id FROM unnest(CAST(:events AS uuid[])) AS event (event_id)
        WHERE event_id NOT IN (SELECT event_id FROM waiting) ORDER BY event_id
    ), recovered AS (
        DELETE FROM inbox_failures USING turn
        WHERE inbox_failures.consumer = :consumer AND inbox_failures.event_id = turn.event_id
    ), taken AS (
        INSERT INTO inbox (consumer, event_id) SELECT :consumer, event_id FROM turn
        ON CONFLICT (consumer, event_id) DO UPDATE SET outcome = 'handled', handled_at = now()
            WHERE inbox.outcome = 'dead' AND inbox.event_id = ANY(CAST(:replayed AS uuid[]))
        RETURNING event_id
    )
    SELECT event_id, true AS taken FROM taken UNION ALL SELECT event_id, false FROM waiting
    """)
)
_LEAVE = Prepared(
    text("DELETE FROM inbox WHERE consumer = :consumer AND event_id = ANY(CAST(:events AS uuid[]))")
)
_FAILURE = """
    SELECT attempts, error, extract(epoch FROM next_attempt_at - now())::float8 AS seconds
    FROM inbox_failures WHERE consumer = %(consumer)s AND event_id = %(event_id)s
    """
# The earliest time at which a failing event of this aggregate is tried again.
_HELD_UP = """
    SELECT extract(epoch FROM min(next_attempt_at) - now())::float8 AS seconds
    FROM inbox_failures WHERE consumer = %(consumer)s AND aggregate_id = %(aggregate_id)s
    """
# Attempts are counted here, since several processes may have handled the event.
_FAIL = """
    INSERT INTO inbox_failures AS failure (consumer, event_id, aggregate_id, attempts, next_attempt_at, error)
    VALUES (%(consumer)s, %(event_id)s, %(aggregate_id)s, %(count)s,
            now() + make_interval(secs => (%(backoff)s::float8[])[1]), %(error)s)
    ON CONFLICT (consumer, event_id) DO UPDATE
    SET attempts = failure.attempts + %(count)s, error = excluded.error,
        next_attempt_at = now() + make_interval(
            secs => (%(backoff)s::float8[])[least(failure.attempts + %(count)s, cardinality(%(backoff)s::float8[]))])
    RETURNING attempts, error, extract(epoch FROM next_attempt_at - now())::float8 AS seconds
    """
_WITHDRAW = """
    UPDATE inbox_failures SET attempts = attempts - 1, next_attempt_at = now()
    WHERE consumer = %(consumer)s AND event_id = ANY(%(events)s::uuid[])
    """
_BURY = """
    WITH buried AS (DELETE FROM inbox_failures WHERE consumer = %(consumer)s AND event_id = %(event_id)s)
    INSERT INTO inbox (consumer, event_id, outcome) VALUES (%(consumer)s, %(event_id)s, 'dead')
    ON CONFLICT (consumer, event_id) DO NOTHING
    """
_HANDLED_BEFORE = """
    SELECT EXISTS (SELECT FROM inbox WHERE consumer = %(consumer)s AND handled_at < %(moment)s) AS known
    """
_MISSING = """
    SELECT event_id FROM unnest(%(events)s::uuid[]) AS event (event_id)
    WHERE NOT EXISTS (SELECT FROM inbox WHERE consumer = %(consumer)s AND inbox.event_id = event.event_id)
    """


@dataclass(frozen=True, slots=True)
class Failure:
    """A failing event: attempts so far, seconds until the next (negative when it is due), the last error."""

    attempts: int
    seconds: float
    error: str


@dataclass(frozen=True, slots=True)
class Taken:
    """The requested events that are new, and those that wait for a predecessor. The rest are duplicates."""

    new: frozenset[uuid.UUID]
    waiting: frozenset[uuid.UUID]


class Inbox:
    """The records of one consumer, in the same database as its effects.

    Calls outside the effects' transaction raise TimeoutError when the database does not respond.
    """

    def __init__(self, database: Database, consumer: str) -> None:
        self._database = database
        self._consumer = consumer

    async def take(
        self,
        work: UnitOfWork,
        predecessors: Mapping[uuid.UUID, Collection[uuid.UUID]],
        replayed: Collection[uuid.UUID] = (),
    ) -> Taken:
        """Records events as handled, in the effects' transaction: the new ones whose predecessors are handled."""
        pairs = [(event, before) for event, earlier in predecessors.items() for before in earlier]
        values = {
            "consumer": self._consumer,
            "events": list(predecessors),
            "followers": [follower for follower, _ in pairs],
            "predecessors": [before for _, before in pairs],
            "replayed": list(replayed),
        }
        rows = await work.all(_TAKE, **values)
        return Taken(
            frozenset(event for event, taken in rows if taken),
            frozenset(event for event, taken in rows if not taken),
        )

    async def leave(self, work: UnitOfWork, events: Collection[uuid.UUID]) -> None:
        """Removes events from the same transaction again, to be handled in another."""
        await work.run(_LEAVE, consumer=self._consumer, events=list(events))

    async def failure(self, event_id: uuid.UUID) -> Failure | None:
        """Returns how the event has failed so far; None when it has not."""
        rows = await self._rows(_FAILURE, event_id=event_id)
        return Failure(rows[0].attempts, rows[0].seconds, rows[0].error) if rows else None

    async def held_up(self, aggregate_id: str) -> float | None:
        """Returns the seconds until a failing event of this aggregate is tried again; None when none fails."""
        [row] = await self._rows(_HELD_UP, aggregate_id=aggregate_id)
        return None if row.seconds is None else float(row.seconds)

    async def missing(self, events: Collection[uuid.UUID]) -> list[uuid.UUID]:
        """Returns the events that were neither handled nor given up."""
        rows = await self._rows(_MISSING, events=list(events)) if events else []
        return [row.event_id for row in rows]

    async def handled_before(self, moment: dt.datetime) -> bool:
        """Whether any event was handled before a time."""
        [row] = await self._rows(_HANDLED_BEFORE, moment=moment)
        return bool(row.known)

    async def fail(
        self, event_id: uuid.UUID, aggregate_id: str, error: str, policy: Policy, *, count: int = 1
    ) -> Failure:
        """Records `count` failed attempts: 0 for an attempt that is already on record and now has its error."""
        values = {"aggregate_id": aggregate_id, "count": count, "backoff": list(policy.backoff)}
        [row] = await self._rows(_FAIL, event_id=event_id, error=error[:_LONGEST_ERROR], **values)
        return Failure(row.attempts, row.seconds, row.error)

    async def withdraw(self, events: Collection[uuid.UUID]) -> None:
        """Takes one attempt of each event off the record, because an outage cut it short."""
        if events:
            await self._rows(_WITHDRAW, events=list(events))

    async def bury(self, event_id: uuid.UUID) -> None:
        """Records that the event was given up, so that the events behind it can go on."""
        await self._rows(_BURY, event_id=event_id)

    async def _rows(self, statement: str, **values: Any) -> list[Any]:
        async with asyncio.timeout(_ANSWER_SECONDS), self._database.connection() as connection:
            cursor = connection.cursor(row_factory=namedtuple_row)
            await cursor.execute(statement, {"consumer": self._consumer, **values})
            return await cursor.fetchall() if cursor.description else []


def may_be_forgotten(event_id: uuid.UUID) -> bool:
    """Whether an event is so old that the inbox may no longer know it; then no stream has it either."""
    return identifiers.created_at(event_id) < time.time() - (RETENTION_DAYS - 1) * _DAY_SECONDS


async def purge(database: Database) -> int:
    """Deletes a batch of events that were handled long ago; returns how many."""
    async with database.connection() as connection:
        return (await connection.execute(_PURGE)).rowcount
