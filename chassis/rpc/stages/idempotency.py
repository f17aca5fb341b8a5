"""The stage that makes a repeated call harmless: one key, one execution, one answer."""

import asyncio
import logging
from datetime import timedelta
from functools import partial
from typing import Any

import grpc
from google.protobuf.message import Message
from google.rpc import status_pb2

from chassis.core import errors
from chassis.core.errors import InvalidArgument
from chassis.data import idempotency_keys
from chassis.data.database import Database
from chassis.data.idempotency_keys import Claim, in_flight
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

# Refusals that the same request meets again, as long as it is the same key's: they are the key's answer.
_FINAL = frozenset(
    (
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.ALREADY_EXISTS,
    )
)

_CODES = {code.value[0]: code for code in grpc.StatusCode}


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
        scope = f"{call.caller.principal}\0{call.method.full_name}\0{_checked(key)}"
        claim = Claim(scope, request, call.operation_id, partial(_lease, call), self._kept)
        replay = await self._look(claim, call)
        if replay is not None:
            return replay
        call.idempotency = claim
        current_claim.set(claim)
        try:
            answer = await proceed(request, call)
        except BaseException as error:  # noqa: BLE001 (a cancelled call frees its key too)
            return await self._failed(claim, call, error)
        return answer if claim.answered else await self._store(claim, call, _OK, _bytes(answer), answer)

    async def _look(self, claim: Claim, call: Call) -> Message | None:
        """The stored answer; None when this call is the one to execute. Raises what else the key may be."""
        found = await idempotency_keys.look(self._database, claim)
        if found is None:
            return None
        if found.fingerprint != claim.fingerprint:
            raise InvalidArgument("IDEMPOTENCY_KEY_REUSED", "The key was used before for another request.")
        if found.status_code is not None:
            return _replay(call, found.status_code, found.answer)
        if not found.free:
            raise in_flight()
        await idempotency_keys.take_over(self._database, claim, found)
        call.operation_id = claim.operation_id
        return None

    async def _store(
        self, claim: Claim, call: Call, status_code: int, data: bytes, answer: Message | None
    ) -> Message | None:
        """Stores how the call ended. When another call holds the key by now, that one's word counts."""
        try:
            stored = await idempotency_keys.store(self._database, claim, status_code, data)
        except Exception:
            logger.warning("An answer of %s could not be stored.", call.method.full_name, exc_info=True)
            return answer
        return answer if stored else await self._other(claim, call)

    async def _other(self, claim: Claim, call: Call) -> Message:
        replay = await self._look(claim, call)
        if replay is None:  # it has let go just now
            self._release_soon(claim, call)
            raise in_flight()
        return replay

    async def _failed(self, claim: Claim, call: Call, error: BaseException) -> Message:
        """Stores a final refusal; frees the key otherwise, so that a retry resumes at once."""
        if claim.lost:
            return await self._other(claim, call)
        refusal = from_exception(error) if isinstance(error, Exception) else None
        if refusal is not None and refusal.code in _FINAL and not claim.answered:
            replay = await self._store(claim, call, refusal.code.value[0], _bytes(refusal.status()), None)
            if replay is not None:
                return replay
        elif claim.touched:
            self._release_soon(claim, call)
        raise error

    def _release_soon(self, claim: Claim, call: Call) -> None:
        """In a task of its own: the call's may be cancelled. If it fails, the lease runs out."""
        task = asyncio.create_task(self._release(claim, call))
        self._releases.add(task)
        task.add_done_callback(self._releases.discard)

    async def _release(self, claim: Claim, call: Call) -> None:
        try:
            await idempotency_keys.release(self._database, claim)
        except Exception:
            logger.debug("A key of %s was not freed.", call.method.full_name, exc_info=True)


def _lease(call: Call) -> float:
    return min(call.remaining(), call.method.timeout)


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
