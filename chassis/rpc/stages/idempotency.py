"""The stage that makes a repeated call harmless: one key, one execution, one answer."""

import asyncio
import logging
from collections.abc import Awaitable
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message
from google.rpc import status_pb2

from chassis.core import errors
from chassis.core.errors import InvalidArgument
from chassis.data import idempotency_keys
from chassis.data.database import Database
from chassis.data.idempotency_keys import Claim, Found, in_flight
from chassis.data.unit_of_work import current_claim
from chassis.rpc.call import Call
from chassis.rpc.failure import from_exception
from chassis.rpc.stage import Proceed

logger = logging.getLogger(__name__)

HEADER = "idempotency-key"
REPLAYED_HEADER = "idempotent-replayed"
SHORTEST_KEY, LONGEST_KEY = 16, 255
KEPT = timedelta(hours=24)
_OK = 0
# How long a failed call waits for its key to be freed, so that an immediate retry finds the key free.
_RELEASE_SECONDS = 0.25

# Refusals that a retry with the same key gets again: they are stored as the key's answer.
_FINAL = frozenset(
    (
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.ALREADY_EXISTS,
    )
)


Stored = TypeVar("Stored")


class Idempotency:
    """The stage of RPCs whose contract declares an `idempotency-key` header."""

    def __init__(self, database: Database, kept: timedelta = KEPT) -> None:
        self._database = database
        self._kept = kept
        self._releases: set[asyncio.Task[None]] = set()

    async def __call__(self, proceed: Proceed, request: Any, call: Call) -> Any:
        key = call.metadata.get(HEADER, "")
        if not key and call.method.idempotency_key == "optional_header":
            return await proceed(request, call)
        claim = self._claim(_checked(key, call), request, call)
        found = await self._take(claim, call)
        if found is not None:
            return _answer_of(found, claim, call)
        call.operation_id = str(claim.operation_id)
        call.idempotency = claim
        current_claim.set(claim)
        try:
            answer = await proceed(request, call)
        except BaseException as error:  # noqa: BLE001 (a cancelled call frees its key too)
            return await self._failed(claim, call, error)
        return await self._succeeded(claim, call, answer)

    def _claim(self, key: str, request: Message, call: Call) -> Claim:
        scope = f"{call.caller.principal}\0{call.method.full_name}\0{key}"
        return Claim(
            scope, request, lease=partial(_lease, call), headers=lambda: call.headers, kept=self._kept
        )

    async def _take(self, claim: Claim, call: Call) -> Found | None:
        try:
            return await idempotency_keys.take(self._database, claim)
        except BaseException:  # without a response, the call may hold the key nevertheless
            self._release_soon(claim, call)
            raise

    async def _succeeded(self, claim: Claim, call: Call, answer: Message) -> Message:
        if claim.answered is None:
            replay = await self._store(claim, call, _OK, answer)
            return answer if replay is None else replay
        if claim.answered != call.headers:
            await self._attempt(call, idempotency_keys.store_headers(self._database, claim, call.headers))
        return answer

    async def _failed(self, claim: Claim, call: Call, error: BaseException) -> Message:
        """Stores a final refusal; otherwise frees the key, so that a retry can resume immediately."""
        if claim.lost:
            return await self._other(claim, call)
        refusal = from_exception(error) if isinstance(error, Exception) else None
        if refusal is not None and refusal.code in _FINAL and claim.answered is None:
            replay = await self._store(claim, call, refusal.code.value[0], refusal.status())
            if replay is not None:
                return replay
        else:
            release = self._release_soon(claim, call)
            if isinstance(error, Exception):
                await asyncio.wait([release], timeout=_RELEASE_SECONDS)
        raise error

    async def _store(self, claim: Claim, call: Call, status_code: int, outcome: Message) -> Message | None:
        """Stores how the call ended. When another call holds the key by now, returns that call's answer."""
        storing = idempotency_keys.store(self._database, claim, status_code, outcome, call.headers)
        return await self._other(claim, call) if await self._attempt(call, storing) is False else None

    async def _attempt(self, call: Call, storing: Awaitable[Stored]) -> Stored | None:
        """Stores under the key; logs a failure, since the call's effects stand even when they cannot be stored."""
        try:
            return await storing
        except Exception:
            logger.warning("An answer of %s could not be stored.", call.method.full_name, exc_info=True)
            return None

    async def _other(self, claim: Claim, call: Call) -> Message:
        """Returns the answer of the call that took the key over."""
        found = await idempotency_keys.look(self._database, claim)
        if found is None:
            raise in_flight()
        return _answer_of(found, claim, call)

    def _release_soon(self, claim: Claim, call: Call) -> asyncio.Task[None]:
        """Frees the key in a separate task, since the call's may be cancelled. If that fails, the lease runs out."""
        task = asyncio.create_task(self._release(claim, call))
        self._releases.add(task)
        task.add_done_callback(self._releases.discard)
        return task

    async def _release(self, claim: Claim, call: Call) -> None:
        try:
            await idempotency_keys.release(self._database, claim)
        except Exception:
            logger.debug("A key of %s was not freed.", call.method.full_name, exc_info=True)


def _lease(call: Call) -> float:
    return min(call.remaining(), call.method.timeout)


def _checked(key: str, call: Call) -> str:
    # Of two keys, a retry through another proxy might be known by the other one.
    sent = [name for name, _ in call.context.invocation_metadata() or () if name == HEADER]
    if len(sent) == 1 and SHORTEST_KEY <= len(key) <= LONGEST_KEY and key.isascii() and key.isprintable():
        return key
    raise InvalidArgument(
        "IDEMPOTENCY_KEY_REQUIRED",
        f"Send one {HEADER} header of {SHORTEST_KEY} to {LONGEST_KEY} printable ASCII characters.",
        violations=[(HEADER, "must be 16 to 255 printable ASCII characters")],
    )


def _answer_of(found: Found, claim: Claim, call: Call) -> Message:
    """Returns the stored answer. Raises the stored refusal, or an error for a key in flight or of another call."""
    if found.fingerprint != claim.fingerprint:
        raise InvalidArgument(
            "IDEMPOTENCY_KEY_REUSED", "The key was used for another request; send a new key."
        )
    if found.status_code is None:
        raise in_flight()
    call.headers = (*((key, value) for key, value in found.headers), (REPLAYED_HEADER, "true"))
    if found.status_code == _OK:
        return call.method.response_class.FromString(found.answer)
    raise errors.from_status(status_pb2.Status.FromString(found.answer))
