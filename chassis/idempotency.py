"""The stage that makes a repeated call harmless: one key, one execution, one answer."""

import asyncio
import hashlib
import logging
import uuid
from datetime import timedelta
from typing import Any

import grpc
from google.protobuf.message import Message
from google.rpc import status_pb2
from psycopg.rows import namedtuple_row
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from chassis import errors
from chassis.call import Call
from chassis.database import Database
from chassis.errors import Aborted, InvalidArgument
from chassis.stage import Proceed

logger = logging.getLogger(__name__)

HEADER = "idempotency-key"
REPLAYED_HEADER = "idempotent-replayed"
SHORTEST_KEY, LONGEST_KEY = 16, 255
KEPT = timedelta(hours=24)
# Beyond the call's deadline, after which nobody can still be at work on it.
LEASE_MARGIN_SECONDS = 2.0
RETRY_AFTER_SECONDS = 1.0
_OK = 0

# Refusals that the same request meets again, as long as it is the same key's: they are the key's answer.
_FINAL = frozenset(
    (
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.ALREADY_EXISTS,
    )
)

_CODES = {code.value[0]: code for code in grpc.StatusCode}

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

    def __init__(self, call: Call, request: Message, key: str, kept: timedelta) -> None:
        name = f"{call.caller.principal}\0{call.method.full_name}\0{key}"
        self.scope = hashlib.sha256(name.encode()).digest()
        self.fingerprint = hashlib.sha256(request.SerializeToString(deterministic=True)).digest()
        self.call = call
        self.held = False
        self.resumes = False
        self.lost = False
        self.answered = False
        self.touched = False
        self._writer: AsyncSession | None = None
        self._answerer: AsyncSession | None = None
        self._holder = uuid.uuid4()
        self._kept = kept

    def values(self) -> dict[str, Any]:
        """What the statements about this claim speak of."""
        return {
            "scope": self.scope,
            "fingerprint": self.fingerprint,
            "operation_id": uuid.UUID(self.call.operation_id),
            "holder": self._holder,
            "lease": timedelta(seconds=self._lease_seconds()),
            "kept": self._kept,
            "lock": int.from_bytes(self.scope[:8], "big", signed=True),
        }

    def _lease_seconds(self) -> float:
        return min(self.call.remaining(), self.call.method.timeout) + LEASE_MARGIN_SECONDS

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
        values = self.values() | {"status_code": _OK, "answer": _bytes(message)}
        result = await session.execute(_ANSWER_IN_TRANSACTION, values)
        if result.rowcount == 0:  # type: ignore[attr-defined]
            self.lost = True
            raise in_flight()
        self._answerer = session


class Idempotency:
    """The stage of RPCs whose contract has them take an `idempotency-key` header."""

    def __init__(self, database: Database, kept: timedelta = KEPT) -> None:
        self._database = database
        self._kept = kept
        self._releases: set[asyncio.Task[None]] = set()

    async def __call__(self, proceed: Proceed, request: Any, call: Call) -> Any:
        key = call.metadata.get(HEADER, "")
        if not key and call.method.idempotency_key == "optional_header":
            return await proceed(request, call)
        claim = Claim(call, request, _checked(key), self._kept)
        replay = await self._look(claim)
        if replay is not None:
            return replay
        call.idempotency = claim
        try:
            answer = await proceed(request, call)
        except BaseException as error:  # noqa: BLE001 (a cancelled call frees its key too)
            return await self._failed(claim, error)
        return answer if claim.answered else await self._store(claim, _OK, _bytes(answer), answer)

    async def _look(self, claim: Claim) -> Message | None:
        """The stored answer; None when this call is the one to execute. Raises what else the key may be."""
        values = claim.values()
        async with self._database.connection() as connection:
            cursor = connection.cursor(row_factory=namedtuple_row)
            await cursor.execute(_LOOK, values, prepare=True)
            row: Any = await cursor.fetchone()
            if row is None:
                return None
            if row.expired:
                await connection.execute(_FORGET, values)
                return None
            if row.fingerprint != claim.fingerprint:
                raise InvalidArgument(
                    "IDEMPOTENCY_KEY_REUSED", "The key was used before for another request."
                )
            if row.status_code is not None:
                return _replay(claim.call, row.status_code, row.answer)
            taken = await connection.execute(_TAKE_OVER, values) if row.free else None
            if taken is None or taken.rowcount == 0:
                raise in_flight()
        claim.held = claim.touched = claim.resumes = True
        claim.call.operation_id = str(row.operation_id)
        return None

    async def _store(
        self, claim: Claim, status_code: int, data: bytes, answer: Message | None
    ) -> Message | None:
        """Stores how the call ended. When another call holds the key by now, that one's word counts."""
        values = claim.values() | {"status_code": status_code, "answer": data}
        try:
            async with self._database.connection() as connection:
                statement = _ANSWER_ALONE if claim.held else _ANSWER_UNCLAIMED
                stored = await connection.execute(statement, values, prepare=True)
        except Exception:
            logger.warning("An answer of %s could not be stored.", claim.call.method.full_name, exc_info=True)
            return answer
        return answer if stored.rowcount else await self._other(claim)

    async def _other(self, claim: Claim) -> Message:
        replay = await self._look(claim)
        if replay is None:  # it has let go just now
            self._release_soon(claim)
            raise in_flight()
        return replay

    async def _failed(self, claim: Claim, error: BaseException) -> Message:
        """Stores a final refusal; frees the key otherwise, so that a retry resumes at once."""
        if claim.lost:
            return await self._other(claim)
        failure = errors.from_exception(error) if isinstance(error, Exception) else None
        if failure is not None and failure.code in _FINAL and not claim.answered:
            replay = await self._store(claim, failure.code.value[0], _bytes(failure.status()), None)
            if replay is not None:
                return replay
        elif claim.touched:
            self._release_soon(claim)
        raise error

    def _release_soon(self, claim: Claim) -> None:
        """In a task of its own: the call's may be cancelled. If it fails, the lease runs out."""
        task = asyncio.create_task(self._release(claim))
        self._releases.add(task)
        task.add_done_callback(self._releases.discard)

    async def _release(self, claim: Claim) -> None:
        try:
            async with self._database.connection() as connection:
                await connection.execute(_RELEASE, claim.values())
        except Exception:
            logger.debug("A key of %s was not freed.", claim.call.method.full_name, exc_info=True)


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


def _checked(key: str) -> str:
    if SHORTEST_KEY <= len(key) <= LONGEST_KEY and key.isascii() and key.isprintable():
        return key
    raise InvalidArgument(
        "IDEMPOTENCY_KEY_REQUIRED",
        f"Send an {HEADER} header of {SHORTEST_KEY} to {LONGEST_KEY} printable ASCII characters.",
        violations=[(HEADER, "must be 16 to 255 printable ASCII characters")],
    )


def _replay(call: Call, status_code: int, data: bytes) -> Message:
    call.set_header(REPLAYED_HEADER, "true")
    if status_code == _OK:
        return call.method.response_class.FromString(data)
    trailers = grpc.aio.Metadata((errors.STATUS_DETAILS, data))
    status = status_pb2.Status.FromString(data)
    raise errors.from_rpc(
        grpc.aio.AioRpcError(_CODES[status_code], grpc.aio.Metadata(), trailers, status.message)
    )


def _bytes(message: Message) -> bytes:
    return message.SerializeToString(deterministic=True)
