"""Idempotency keys, rows in the service's own database: which call holds a key, and the answer stored under it."""

import hashlib
import uuid
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, NamedTuple

from google.protobuf.message import Message
from psycopg.rows import class_row
from psycopg.types.json import Jsonb
from sqlalchemy import text

from chassis.core.errors import Aborted
from chassis.core.identifiers import uuid7
from chassis.data.database import Database
from chassis.data.queries import Prepared, Step

# Added to the time left until the call's deadline; by then no process can still be working on the call.
LEASE_MARGIN_SECONDS = 2.0
RETRY_AFTER_SECONDS = 1.0
_OK = 0

Headers = Sequence[tuple[str, str]]

# Takes a key that is new, or one that an earlier call left without an answer. Committed before the handler starts, so
# that the operation id is in the database before it can be sent anywhere.
_CLAIM = """
    INSERT INTO idempotency_keys AS key
        (scope, fingerprint, operation_id, holder, locked_until, expires_at, begun)
    VALUES (%(scope)s, %(fingerprint)s, %(operation_id)s, %(holder)s, now() + %(lease)s, now() + %(kept)s, false)
    ON CONFLICT (scope) DO UPDATE SET holder = excluded.holder, locked_until = excluded.locked_until
    WHERE key.status_code IS NULL AND key.fingerprint = excluded.fingerprint
      AND key.locked_until <= now() AND key.expires_at > now()
    RETURNING operation_id, begun
    """
_LOOK = """
    SELECT fingerprint, status_code, answer, headers, expires_at <= now() AS expired
    FROM idempotency_keys WHERE scope = %(scope)s
    """
_FORGET = "DELETE FROM idempotency_keys WHERE scope = %(scope)s AND expires_at <= now()"
# A call that lost the key to a retry finds no row and stops.
_FENCE = Prepared(
    text("""
    UPDATE idempotency_keys SET begun = true WHERE scope = :scope AND holder = :holder
    """)
)
_ANSWER = Prepared(
    text("""
    UPDATE idempotency_keys SET begun = true, status_code = :status_code, answer = :answer, headers = :headers
    WHERE scope = :scope AND holder = :holder AND status_code IS NULL
    """)
)
_RELEASE = """
    UPDATE idempotency_keys SET locked_until = now()
    WHERE scope = %(scope)s AND holder = %(holder)s AND status_code IS NULL
    """
_HEADERS = "UPDATE idempotency_keys SET headers = %(headers)s WHERE scope = %(scope)s AND holder = %(holder)s"
_PURGE = """
    DELETE FROM idempotency_keys WHERE scope IN
        (SELECT scope FROM idempotency_keys WHERE expires_at <= now() LIMIT 1000)
    """


class Claim:
    """One call's hold on its key.

    `holder` fences: a call that lost its key to a retry can neither commit a unit of work nor store an answer.
    """

    def __init__(
        self,
        scope: str,
        request: Message,
        *,
        lease: Callable[[], float],
        headers: Callable[[], Headers],
        kept: timedelta,
    ) -> None:
        """`scope` identifies the key within the service; `lease` returns the seconds that the call may still take."""
        self.scope = hashlib.sha256(scope.encode()).digest()
        self.fingerprint = hashlib.sha256(_bytes(request)).digest()
        # The id of the first call that held the key; later calls take it over.
        self.operation_id = uuid7()
        # Whether an earlier call committed a unit of work under the key.
        self.resumes = False
        self.lost = False
        # The headers that were stored with the answer; None while there is no answer.
        self.answered: Headers | None = None
        self.holder = uuid.uuid4()
        self._lease = lease
        self._headers = headers
        self._sent: Headers = ()
        self._kept = kept

    def values(self) -> dict[str, Any]:
        """Returns the parameters of the statements about this claim."""
        return {
            "scope": self.scope,
            "fingerprint": self.fingerprint,
            "operation_id": self.operation_id,
            "holder": self.holder,
            "lease": timedelta(seconds=self._lease() + LEASE_MARGIN_SECONDS),
            "kept": self._kept,
        }

    def fence(self, answer: Message | None) -> Step:
        """Returns the write of the answer, or that work has begun; it changes no row if a retry holds the key."""
        held = {"scope": self.scope, "holder": self.holder}
        if answer is None:
            return _FENCE, held
        self._sent = tuple(self._headers())
        return _ANSWER, {**held, **_outcome(_OK, answer, self._sent)}

    def lose(self) -> Aborted:
        """Notes that a retry holds the key, and returns the error for it."""
        self.lost = True
        return in_flight()

    def committed(self, answer: Message | None) -> None:
        """Notes that what `fence` wrote is committed."""
        if answer is not None:
            self.answered = self._sent


class Found(NamedTuple):
    """The state of a key that a call could not take: how its call ended; the code is None while it runs."""

    fingerprint: bytes
    status_code: int | None
    answer: bytes
    headers: list[list[str]]
    expired: bool


async def take(database: Database, claim: Claim) -> Found | None:
    """Makes the call the holder of its key and returns None, or returns the key's state when it cannot be taken."""
    async with database.connection("keys") as connection:
        while True:
            cursor = await connection.execute(_CLAIM, claim.values(), prepare=True)
            taken = await cursor.fetchone()
            if taken is not None:
                claim.operation_id, claim.resumes = taken
                return None
            found = await _look(connection, claim)
            if found is not None and not found.expired:
                return found
            await connection.execute(_FORGET, claim.values())


async def look(database: Database, claim: Claim) -> Found | None:
    """Returns the state of the claim's key."""
    async with database.connection("keys") as connection:
        return await _look(connection, claim)


async def _look(connection: Any, claim: Claim) -> Found | None:
    cursor = connection.cursor(row_factory=class_row(Found))
    await cursor.execute(_LOOK, claim.values(), prepare=True)
    found: Found | None = await cursor.fetchone()
    return found


async def store(
    database: Database, claim: Claim, status_code: int, outcome: Message, headers: Headers
) -> bool:
    """Stores how the call ended; returns False when another call holds the key by now."""
    values = {"scope": claim.scope, "holder": claim.holder, **_outcome(status_code, outcome, headers)}
    async with database.connection("keys") as connection:
        stored = await _ANSWER.execute(connection, values)
        return stored.rowcount > 0


async def store_headers(database: Database, claim: Claim, headers: Headers) -> None:
    """Stores headers that the handler set after its answer was committed."""
    async with database.connection("keys") as connection:
        await connection.execute(_HEADERS, claim.values() | {"headers": Jsonb(list(headers))})


async def release(database: Database, claim: Claim) -> None:
    """Frees the key, so that a retry can resume immediately."""
    async with database.connection("keys") as connection:
        await connection.execute(_RELEASE, claim.values())


async def purge(database: Database) -> int:
    """Deletes a batch of expired keys; returns how many."""
    async with database.connection() as connection:
        return (await connection.execute(_PURGE)).rowcount


def in_flight() -> Aborted:
    """Returns the error for a call whose key another call holds."""
    return Aborted(
        "IDEMPOTENCY_KEY_IN_FLIGHT",
        "A call with this key is still running.",
        retry_after=RETRY_AFTER_SECONDS,
    )


def _outcome(status_code: int, outcome: Message, headers: Headers) -> dict[str, Any]:
    return {"status_code": status_code, "answer": _bytes(outcome), "headers": Jsonb(list(headers))}


def _bytes(message: Message) -> bytes:
    return message.SerializeToString(deterministic=True)
