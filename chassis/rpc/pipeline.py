"""The pipeline: the stages that every call goes through, compiled once for each RPC from its contract."""

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
from chassis.rpc.stages import access, caching, reasons, validation
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
    """What stages share in one server."""

    verifier: TokenVerifier
    admission: Admission
    per_caller: PerCaller
    trust_domain: str
    # Bytes that the server takes of any request.
    receive_limit: int
    database: Database | None
    # Whether a reason that an RPC gives and its contract does not declare fails the call, as in tests.
    check_reasons: bool = False


@dataclass(frozen=True, slots=True)
class Step:
    """A named place in the pipeline: how its stage is made (None: the RPC needs none), and why it stands there."""

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
        "Before the first thing that waits: fetching keys, verifying, and all that follows count.",
    ),
    Step(
        "audit",
        _audit,
        "Outside all that decides, so that a refusal is on record; what a busy server turns away, nobody decided.",
    ),
    Step(
        "caller",
        lambda contract, parts: CallerStage(contract, parts.verifier, parts.trust_domain),
        "Everything that follows asks who calls.",
    ),
    Step(
        "per caller",
        lambda contract, parts: parts.per_caller.stage(contract),
        "As soon as it is known who calls, and before anything is done for who has too much open already.",
    ),
    Step(
        "access",
        lambda contract, _: access.stage(contract),
        "Before validation, so that a stranger learns nothing about what a good request looks like.",
    ),
    Step(
        "validation",
        lambda contract, parts: validation.stage(contract, parts.receive_limit),
        "Before idempotency, so that a request that is no good takes no key.",
    ),
    Step(
        "caching",
        lambda contract, _: caching.stage(contract),
        "Around idempotency, so that an answer that is repeated has the same headers; it looks at the answer.",
    ),
    Step(
        "idempotency",
        _idempotency,
        "After access, so that a stored answer goes only to whom it was given; before the handler, which it replaces.",
    ),
    Step(
        "reasons",
        lambda contract, parts: reasons.stage(contract, check=parts.check_reasons),
        "Innermost, and in tests only: it looks at what the handler raised.",
    ),
)


# Of the call that the task is for: gRPC reads them to find the handler, and would read them once more.
metadata: ContextVar[dict[str, str]] = ContextVar("metadata")


def stages_of(contract: MethodContract, parts: Parts) -> list[tuple[str, Stage]]:
    """The stages that an RPC needs, by name, outermost first."""
    made = ((step.name, step.make(contract, parts)) for step in STEPS)
    return [(name, stage) for name, stage in made if stage is not None]


def compile_rpc(contract: MethodContract, method: Callable[..., Any], parts: Parts) -> Handler:
    """What the server runs for an RPC: its stages around the servicer's method, in the RPC's call shape."""
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
        # gRPC would answer an exception here with one of its own; None is for the validation stage to refuse.
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
    # The messages of a server stream are written as they come, and nothing is left to answer.
    answer_class = type(None) if contract.server_streaming else contract.response_class

    async def answer(request: Any, context: Any) -> Any:
        call = Call(contract, metadata.get(), context)
        current_call.set(call)
        try:
            try:
                response = await proceed(request, call)
                if type(response) is not answer_class:
                    raise TypeError(f"{contract.full_name} answered with {type(response)}.")
                call.end(grpc.StatusCode.OK)
            except BaseException as error:  # noqa: BLE001 (nothing may leave the server as it is)
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
    """A handler that is seen to be asynchronous at first sight.

    grpc.aio asks at every call whether its handler is one, and looks for an awaitable before it takes a function apart.
    """

    def __await__(self) -> NoReturn:
        raise TypeError("A handler is called, and its answer awaited.")


def _release(call: Call) -> None:
    """Lets go of what gRPC frees with the call, and of what would make it a cycle for the garbage collector."""
    call.context = None
    call.caller.release()


async def _send_headers(call: Call) -> None:
    await call.context.send_initial_metadata(call.headers)
    call.headers = ()


def _fail(call: Call, error: BaseException) -> None:
    try:
        call.failure = failure_of(error, call)
    except BaseException:
        # The client is told by its own clock; here its deadline looks the same as a client that left.
        late = call.remaining() == 0
        call.end(grpc.StatusCode.DEADLINE_EXCEEDED if late else grpc.StatusCode.CANCELLED)
        if call.on_failure is not None:
            call.on_failure(call)  # nobody waits any more
        raise
    call.end(call.failure.code)


async def _abort(call: Call, error: MeshError) -> None:
    # As long as nothing was sent, gRPC makes one frame of headers and status, and the edge sees these as headers.
    details = (STATUS_DETAILS, error.status().SerializeToString())
    trailers = (details, ("x-trace-id", trace_id()), *call.headers, *_retry_after(error))
    await call.context.abort(error.code, error.message, trailers)


def _retry_after(error: MeshError) -> Sequence[tuple[str, str]]:
    """HTTP's own word for RetryInfo, in whole seconds."""
    return () if error.retry_after is None else (("retry-after", str(math.ceil(error.retry_after))),)
