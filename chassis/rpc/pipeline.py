"""The pipeline: the stages that every call passes, compiled once for each RPC from its contract."""

import contextlib
import math
from collections.abc import AsyncIterator, Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any, NoReturn, TypeAlias

import grpc
from google.protobuf.message import DecodeError, Message

from chassis.contract.methods import ContractError, MethodContract
from chassis.core.errors import STATUS_DETAILS, MeshError
from chassis.data.database import Database
from chassis.observe.tracing import trace_id
from chassis.rpc.call import Call, current_call
from chassis.rpc.failure import failure_of
from chassis.rpc.stage import Proceed, Stage
from chassis.rpc.stages import access, caching, reasons, session, validation
from chassis.rpc.stages.admission import Admission
from chassis.rpc.stages.audit import Audit
from chassis.rpc.stages.caller import CallerStage
from chassis.rpc.stages.deadline import Deadline
from chassis.rpc.stages.idempotency import Idempotency
from chassis.rpc.stages.per_caller import PerCaller
from chassis.rpc.stages.telemetry import Telemetry
from chassis.trust.tokens import TokenVerifier

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


@dataclass(frozen=True, slots=True)
class Parts:
    """The objects that the stages of one server share."""

    verifier: TokenVerifier
    admission: Admission
    per_caller: PerCaller
    trust_domain: str
    # The largest request that the server accepts, in bytes.
    receive_limit: int
    database: Database | None
    # Whether an RPC that fails with a reason that its contract does not declare fails the call, as in tests.
    check_reasons: bool = False


@dataclass(frozen=True, slots=True)
class Step:
    """A named place in the pipeline: how its stage is made (None if the RPC needs none), and why it is there."""

    name: str
    make: Callable[[MethodContract, Parts], Stage | None]
    reason: str


def _idempotency(contract: MethodContract, parts: Parts) -> Stage | None:
    if contract.idempotency_key not in ("required_header", "optional_header"):
        return None
    if parts.database is None:
        raise ContractError(f"{contract.full_name} takes idempotency keys, so its service needs a database.")
    return Idempotency(parts.database)


def _audit(contract: MethodContract, parts: Parts) -> Stage | None:
    if not contract.audit:
        return None
    if parts.database is None:
        raise ContractError(f"{contract.full_name} leaves audit records, so its service needs a database.")
    return Audit(parts.database)


STEPS: Sequence[Step] = (
    Step(
        "telemetry",
        lambda contract, _: Telemetry(contract),
        "Outermost, so that every call is counted, timed and traced, however it ends.",
    ),
    Step(
        "admission",
        lambda contract, parts: parts.admission.stage(contract),
        "Before any work is done for a call that a busy server should refuse.",
    ),
    Step(
        "deadline",
        lambda contract, _: Deadline(contract),
        "Before the first stage that waits: fetching keys, verifying, and all that follows counts.",
    ),
    Step(
        "audit",
        _audit,
        "Outside all stages that decide, so that refusals are on record; shedding a call is not a decision.",
    ),
    Step(
        "caller",
        lambda contract, parts: CallerStage(contract, parts.verifier, parts.trust_domain),
        "Everything that follows depends on who calls.",
    ),
    Step(
        "per caller",
        lambda contract, parts: parts.per_caller.stage(contract),
        "As soon as the caller is known, and before any work is done for one who has too much open already.",
    ),
    Step(
        "session",
        lambda contract, parts: session.stage(contract, parts.verifier),
        "As soon as a stream has its place: whatever it waits for ends with the caller's session.",
    ),
    Step(
        "access",
        lambda contract, _: access.stage(contract),
        "Before validation, so that a stranger learns nothing about what a good request looks like.",
    ),
    Step(
        "validation",
        lambda contract, parts: validation.stage(contract, parts.receive_limit),
        "Before idempotency, so that an invalid request takes no key.",
    ),
    Step(
        "caching",
        lambda contract, _: caching.stage(contract),
        "Around idempotency, so that a replayed answer has the same headers; it reads the answer.",
    ),
    Step(
        "idempotency",
        _idempotency,
        "After access, so that a stored answer goes only to its own caller; before the handler, which it replaces.",
    ),
    Step(
        "reasons",
        lambda contract, parts: reasons.stage(contract, check=parts.check_reasons),
        "Innermost, and in tests only: it checks what the handler raised.",
    ),
)


# The metadata of the task's call: gRPC reads it to find the handler, and would otherwise read it again.
metadata: ContextVar[dict[str, str]] = ContextVar("metadata")


def stages_of(contract: MethodContract, parts: Parts) -> list[tuple[str, Stage]]:
    """Returns the stages that an RPC needs, by name, outermost first."""
    made = ((step.name, step.make(contract, parts)) for step in STEPS)
    return [(name, stage) for name, stage in made if stage is not None]


def compile_rpc(contract: MethodContract, method: Callable[..., Any], parts: Parts) -> Handler:
    """Returns the handler of an RPC: its stages around the servicer's method, in the RPC's call shape."""
    proceed: Proceed = _streaming(method) if contract.server_streaming else method
    for _, stage in reversed(stages_of(contract, parts)):
        proceed = partial(stage, proceed)
    shape = _SHAPES[contract.client_streaming, contract.server_streaming]
    return shape(_answer(contract, proceed), _decoder(contract), contract.response_class.SerializeToString)


_SHAPES = {
    (False, False): grpc.unary_unary_rpc_method_handler,
    (False, True): grpc.unary_stream_rpc_method_handler,
    (True, False): grpc.stream_unary_rpc_method_handler,
    (True, True): grpc.stream_stream_rpc_method_handler,
}


def _decoder(contract: MethodContract) -> Callable[[bytes], Message | None]:
    parse = contract.request_class.FromString

    def decode(data: bytes) -> Message | None:
        # gRPC would turn an exception here into a status of its own; the validation stage refuses None.
        try:
            return parse(data)
        except DecodeError:
            return None

    return decode


def _streaming(method: Callable[..., Any]) -> Proceed:
    async def handle(request: Any, call: Call) -> None:
        messages: AsyncIterator[Message] = method(request, call)
        async with contextlib.aclosing(messages):  # type: ignore[type-var]
            async for message in messages:
                if call.headers:
                    await _send_headers(call)
                await call.context.write(message)

    return handle


def _answer(contract: MethodContract, proceed: Proceed) -> Callable[[Any, Any], Any]:
    # The messages of a server stream are written as they come, so nothing is left to return.
    answer_class = type(None) if contract.server_streaming else contract.response_class

    async def answer(request: Any, context: Any) -> Any:
        call = Call(contract, metadata.get(), context)
        current_call.set(call)
        try:
            try:
                response = await proceed(request, call)
                if type(response) is not answer_class:
                    raise TypeError(f"{contract.full_name} returned a {type(response)}.")
                call.end(grpc.StatusCode.OK)
            except BaseException as error:  # noqa: BLE001 (no exception may leave the server unmapped)
                response = None
                _fail(call, error)
            if call.failure is not None:
                if call.on_failure is not None:
                    await call.on_failure(call)
                await _abort(call, call.failure)
            if call.headers:
                await _send_headers(call)
            return response
        finally:
            _release(call)

    return _Asynchronous(answer)


class _Asynchronous(partial[Any]):
    """A handler that grpc.aio quickly recognizes as asynchronous.

    grpc.aio checks that at every call, and checks for an awaitable before it inspects a function.
    """

    def __await__(self) -> NoReturn:
        raise TypeError("A handler is called, and its answer awaited.")


def _release(call: Call) -> None:
    """Drops references to objects that gRPC frees with the call or that would form a garbage collection cycle.

    The task holds the call by its context variables, and the limit holds the task.
    """
    call.context = call.limit = None
    call.caller.release()


async def _send_headers(call: Call) -> None:
    await call.context.send_initial_metadata(call.headers)
    call.headers = ()


def _fail(call: Call, error: BaseException) -> None:
    try:
        call.failure = failure_of(error, call)
    except BaseException:
        # The client has its own clock; here, an expired deadline looks the same as a client that left.
        late = call.remaining() == 0
        call.end(grpc.StatusCode.DEADLINE_EXCEEDED if late else grpc.StatusCode.CANCELLED)
        if call.on_failure is not None:
            call.on_failure(call)  # not awaited, since the caller is gone
        raise
    call.end(call.failure.code)


async def _abort(call: Call, error: MeshError) -> None:
    # As long as nothing was sent, gRPC sends headers and status in one frame, and the edge sees these as headers.
    details = (STATUS_DETAILS, error.status().SerializeToString())
    trailers = (details, ("x-trace-id", trace_id()), *call.headers, *_retry_after(error))
    await call.context.abort(error.code, error.message, trailers)


def _retry_after(error: MeshError) -> Sequence[tuple[str, str]]:
    """Returns HTTP's equivalent of RetryInfo, in whole seconds."""
    return () if error.retry_after is None else (("retry-after", str(math.ceil(error.retry_after))),)
