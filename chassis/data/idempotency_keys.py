"""Idempotency keys: who holds one, and the answer that it has; rows of the service's own database."""

import hashlib
import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any, NamedTuple

from google.protobuf.message import Message
from psycopg.rows import class_row
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from chassis.core.errors import Aborted
from chassis.data.database import Database

# Beyond the call's deadline, after which nobody can still be at work on it.
LEASE_MARGIN_SECONDS = 2.0
RETRY_AFTER_SECONDS = 1.0
_OK = 0

_LOOK = """
    SELECT fingerprint, operation_id, status_code, answer, locked_until <= now() AS free,
           expires_at <= now() AS expired
    FROM idempotency_keys WHERE scope = %(scope)s
    """
_FORGET = "DELETE FROM idempotency_keys WHERE scope = %(scope)s AND expires_at <= now()"
_TAKE_OVER = """
    UPDATE idempotency_keys SET holder = %(holder)s, locked_until = now() + %(lease)s
    WHERE scope = %(scope)s AND status_code IS NULL AND locked_until <= now()
    """
# The advisory lock turns a duplicate away at once: without it, it would wait on the unique index, connection in hand,
# for the first one's transaction to end.
_CLAIM = text("""
    INSERT INTO idempotency_keys (scope, fingerprint, operation_id, holder, locked_until, expires_at)
    SELECT :scope, :fingerprint, :operation_id, :holder, now() + :lease, now() + :kept
    WHERE pg_try_advisory_xact_lock(:lock)
    ON CONFLICT (scope) DO NOTHING
    """)
_ANSWER = """
    UPDATE idempotency_keys SET status_code = {status_code}, answer = {answer}
    WHERE scope = {scope} AND holder = {holder} AND status_code IS NULL
    """
_ANSWER_IN_TRANSACTION = text(
    _ANSWER.format(status_code=":status_code", answer=":answer", scope=":scope", holder=":holder")
)
_ANSWER_ALONE = _ANSWER.format(
    status_code="%(status_code)s", answer="%(answer)s", scope="%(scope)s", holder="%(holder)s"
)
# For a call that never opened a unit of work, or whose claim went with its transaction.
_ANSWER_UNCLAIMED = """
    INSERT INTO idempotency_keys
        (scope, fingerprint, operation_id, holder, locked_until, expires_at, status_code, answer)
    SELECT %(scope)s, %(fingerprint)s, %(operation_id)s, %(holder)s, now(), now() + %(kept)s,
           %(status_code)s, %(answer)s
    WHERE pg_try_advisory_xact_lock(%(lock)s)
    ON CONFLICT (scope) DO NOTHING
    """
_RELEASE = """
    UPDATE idempotency_keys SET locked_until = now()
    WHERE scope = %(scope)s AND holder = %(holder)s AND status_code IS NULL
    """
_PURGE = """
    DELETE FROM idempotency_keys WHERE scope IN
        (SELECT scope FROM idempotency_keys WHERE expires_at <= now() LIMIT 1000)
    """


class Claim:
    """One call's hold on its key. The first unit of work writes it; until then nothing is held.

    `holder` fences: a call that lost its lease to a retry can no longer store an answer.
    """

    def __init__(
        self, scope: str, request: Message, operation_id: str, lease: Callable[[], float], kept: timedelta
    ) -> None:
        """`scope` names the key among all of a service's; `lease` gives the seconds that the call may still take."""
        self.scope = hashlib.sha256(scope.encode()).digest()
        self.fingerprint = hashlib.sha256(request.SerializeToString(deterministic=True)).digest()
        self.operation_id = operation_id
        self.held = False
        self.resumes = False
        self.lost = False
        self.answered = False
        self.touched = False
        self._writer: AsyncSession | None = None
        self._answerer: AsyncSession | None = None
        self._holder = uuid.uuid4()
        self._lease = lease
        self._kept = kept

    def values(self) -> dict[str, Any]:
        """What the statements about this claim speak of."""
        return {
            "scope": self.scope,
            "fingerprint": self.fingerprint,
            "operation_id": uuid.UUID(self.operation_id),
            "holder": self._holder,
            "lease": timedelta(seconds=self._lease() + LEASE_MARGIN_SECONDS),
            "kept": self._kept,
            "lock": int.from_bytes(self.scope[:8], "big", signed=True),
        }

    async def enter(self, session: AsyncSession) -> None:
        """Writes the claim in the session's transaction, unless it is held or being written already.

        Aborted when another call holds the key.
        """
        if self.held or self._writer is not None:
            return
        self._writer, self.touched = session, True
        result = await session.execute(_CLAIM, self.values())
        if result.rowcount == 0:  # type: ignore[attr-defined]
            self.lost = True
            raise in_flight()

    def left(self, session: AsyncSession, *, committed: bool) -> None:
        """A transaction of the call has ended, and what it wrote of the claim stands or is gone."""
        if self._writer is session:
            self._writer, self.held = None, committed
        if self._answerer is session:
            self._answerer, self.answered = None, committed

    async def answer(self, session: AsyncSession, message: Message) -> None:
        """Stores the answer in the session's transaction. Aborted when a retry has taken the key over."""
        values = self.values() | {"status_code": _OK, "answer": message.SerializeToString(deterministic=True)}
        result = await session.execute(_ANSWER_IN_TRANSACTION, values)
        if result.rowcount == 0:  # type: ignore[attr-defined]
            self.lost = True
            raise in_flight()
        self._answerer = session


class Found(NamedTuple):
    """What is known of a key: how its call ended (None while it has not), and whether it may be taken over."""

    fingerprint: bytes
    operation_id: uuid.UUID
    status_code: int | None
    answer: bytes
    free: bool
    expired: bool


async def look(database: Database, claim: Claim) -> Found | None:
    """What is known of the claim's key; None when it is new, or past its keeping time."""
    async with database.connection("keys") as connection:
        cursor = connection.cursor(row_factory=class_row(Found))
        await cursor.execute(_LOOK, claim.values(), prepare=True)
        found = await cursor.fetchone()
        if found is not None and found.expired:
            await connection.execute(_FORGET, claim.values())
            return None
        return found


async def take_over(database: Database, claim: Claim, found: Found) -> None:
    """Resumes what an earlier call began. Aborted when another one was faster."""
    async with database.connection("keys") as connection:
        taken = await connection.execute(_TAKE_OVER, claim.values())
    if taken.rowcount == 0:
        raise in_flight()
    claim.held = claim.touched = claim.resumes = True
    claim.operation_id = str(found.operation_id)


async def store(database: Database, claim: Claim, status_code: int, data: bytes) -> bool:
    """Stores how the call ended; False when another call holds the key by now."""
    values = claim.values() | {"status_code": status_code, "answer": data}
    async with database.connection("keys") as connection:
        statement = _ANSWER_ALONE if claim.held else _ANSWER_UNCLAIMED
        return (await connection.execute(statement, values, prepare=True)).rowcount > 0


async def release(database: Database, claim: Claim) -> None:
    """Frees the key, so that a retry resumes at once."""
    async with database.connection("keys") as connection:
        await connection.execute(_RELEASE, claim.values())


async def purge(database: Database) -> int:
    """Deletes a batch of keys that are past their keeping time; answers how many."""
    async with database.connection() as connection:
        return (await connection.execute(_PURGE)).rowcount


def in_flight() -> Aborted:
    """The answer while another call with the same key is at work."""
    return Aborted(
        "IDEMPOTENCY_KEY_IN_FLIGHT",
        "A call with this key is still running.",
        retry_after=RETRY_AFTER_SECONDS,
    )
