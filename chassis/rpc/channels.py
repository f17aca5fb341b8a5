"""Channels: generated stubs on a MeshChannel reach the right deployable with deadline, trace and token."""

import asyncio
import functools
import time
from collections.abc import AsyncIterator, Callable, Generator, Sequence
from typing import Any, Self

import grpc
from opentelemetry.trace import INVALID_SPAN, Span, SpanKind, get_current_span

from chassis.contract.methods import ContractError, MethodContract
from chassis.contract.registry import method_at
from chassis.core import errors
from chassis.core.settings import DEFAULT_PORT, Settings
from chassis.observe import tracing
from chassis.observe.metrics import RpcMetrics
from chassis.rpc.call import current_call
from chassis.rpc.stages import telemetry
from chassis.rpc.upstream import Upstream
from chassis.trust.certificates import Certificates

# Reserved for the way back and for our own answer; a call with less time left than the minimum is not started.
_RESERVE_SECONDS = 0.05
_LEAST_SECONDS = 0.02

Metadata = Sequence[tuple[str, str | bytes]]


class MeshChannel(grpc.aio.Channel):
    """One channel for the whole mesh: the RPC's contract names the deployable, the settings say where it is.

    Pass it to the constructor of generated stubs in place of a `grpc.aio.Channel`. Usable outside a service too:
    `MeshChannel(Settings(service="developer", tls_directory=…, targets={…}))`.
    """

    def __init__(self, settings: Settings, certificates: Certificates | None = None) -> None:
        self._settings = settings
        self._certificates = certificates or Certificates.of(settings)
        self._upstreams: dict[str, Upstream] = {}

    def unary_unary(self, method: str, *serializers: Any, **options: Any) -> Any:
        """Returns a method that takes one message and returns one."""
        return self._method("unary_unary", method, *serializers, **options)

    def unary_stream(self, method: str, *serializers: Any, **options: Any) -> Any:
        """Returns a method that takes one message and returns a stream."""
        return self._method("unary_stream", method, *serializers, **options)

    def stream_unary(self, method: str, *serializers: Any, **options: Any) -> Any:
        """Returns a method that takes a stream and returns one message."""
        return self._method("stream_unary", method, *serializers, **options)

    def stream_stream(self, method: str, *serializers: Any, **options: Any) -> Any:
        """Returns a method that takes a stream and returns one."""
        return self._method("stream_stream", method, *serializers, **options)

    def _method(
        self,
        shape: str,
        path: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool = False,
    ) -> "Method":
        method = method_at(path)
        if not method.deployable:
            raise ContractError(f"The contract of {method.service} does not name a deployable.")
        upstream = self._upstream(method.deployable)
        return Method(upstream, shape, method, request_serializer, response_deserializer)

    def _upstream(self, deployable: str) -> Upstream:
        if deployable not in self._upstreams:
            target = self._settings.targets.get(deployable, f"dns:///{deployable}:{DEFAULT_PORT}")
            self._upstreams[deployable] = Upstream(deployable, target, self._certificates)
        return self._upstreams[deployable]

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """Raises NotImplementedError: this channel has connections to many deployables, each with a separate state."""
        raise NotImplementedError

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """Raises NotImplementedError, like `get_state`."""
        raise NotImplementedError

    async def channel_ready(self) -> None:
        """Raises NotImplementedError, like `get_state`: a call waits for its connection by itself."""
        raise NotImplementedError

    async def close(self, grace: float | None = None) -> None:
        """Closes all connections; running calls get `grace` seconds."""
        await asyncio.gather(*(upstream.close(grace) for upstream in self._upstreams.values()))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class Method:
    """The callable that a stub uses for one RPC. Everything that the contract decides is bound here, once."""

    def __init__(
        self, upstream: Upstream, shape: str, method: MethodContract, serializer: Any, deserializer: Any
    ) -> None:
        self._upstream = upstream
        self._shape = shape
        self._contract = method
        self._serializers = (serializer, deserializer)
        self._template = telemetry.rpc_template(method, SpanKind.CLIENT)
        self._metrics = _metrics_of(method.service, method.name)
        self._start = Stream if method.server_streaming else Unary
        self._channel: grpc.aio.Channel | None = None
        self._invoke: Callable[..., Any] = _not_bound

    def __call__(
        self,
        request: Any = None,
        *,
        timeout: float | None = None,
        metadata: Metadata | None = None,
        **options: Any,
    ) -> Any:
        """Starts the call. `timeout`, in seconds, can only shorten the time that the contract and current call leave.

        Awaiting or iterating raises AioRpcError when the call fails; without time left, starting it raises
        DEADLINE_EXCEEDED immediately.
        """
        seconds = self._seconds(timeout)
        if seconds < _LEAST_SECONDS:
            raise _out_of_time()
        span = self._span()
        headers = _headers(span, metadata)
        return self._start(
            self._bound()(request, timeout=seconds, metadata=headers, **options), span, self._metrics
        )

    def _span(self) -> Span:
        """Returns a child of the current span; without one, the root of a trace, unless the RPC is untraced."""
        if self._contract.untraced and not get_current_span().get_span_context().is_valid:
            return INVALID_SPAN
        return tracing.recorder().start_child(self._template)

    def _seconds(self, timeout: float | None) -> float:
        seconds = self._contract.timeout if timeout is None else min(timeout, self._contract.timeout)
        call = current_call.get()
        return seconds if call is None else min(seconds, call.remaining() - _RESERVE_SECONDS)

    def _bound(self) -> Callable[..., Any]:
        channel = self._upstream.channel()
        if channel is not self._channel:
            self._channel = channel
            self._invoke = getattr(channel, self._shape)(self._contract.path, *self._serializers)
        return self._invoke


@functools.cache
def _metrics_of(service: str, method: str) -> RpcMetrics:
    return RpcMetrics("client", service, method)


def _not_bound(*_: object) -> Any:
    raise AssertionError


def _headers(span: Span, given: Metadata | None) -> list[tuple[str, str | bytes]]:
    """Returns the call's own metadata with the trace, and with the token of the call that is being served."""
    headers = list(given or ())
    context = span.get_span_context()
    if context.is_valid:
        flags = int(context.trace_flags)
        headers.append(("traceparent", f"00-{context.trace_id:032x}-{context.span_id:016x}-{flags:02x}"))
    call = current_call.get()
    if call is not None and call.caller.token and not any(key == "authorization" for key, _ in headers):
        headers.append(("authorization", f"Bearer {call.caller.token}"))
    return [header for header in headers if header[1]]


class Unary:
    """A running call with one answer: await it. All other attributes are those of the underlying grpc.aio call."""

    def __init__(self, call: Any, span: Span, metrics: RpcMetrics) -> None:
        self._call = call
        self._outcome = _Outcome(span, metrics)

    def __await__(self) -> Generator[Any, None, Any]:
        return self._answer().__await__()

    async def _answer(self) -> Any:
        with self._outcome:
            return await self._call

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call, name)


class Stream:
    """A running call with a stream of answers: iterate it. All other attributes are those of the grpc.aio call."""

    def __init__(self, call: Any, span: Span, metrics: RpcMetrics) -> None:
        self._call = call
        self._outcome = _Outcome(span, metrics)

    async def __aiter__(self) -> AsyncIterator[Any]:
        with self._outcome:
            try:
                async for message in self._call:
                    yield message
            finally:
                # A reader that stops early does not need the rest.
                self._call.cancel()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call, name)


class _Outcome:
    """The end of a call: ends the span and counts the call, whatever the outcome."""

    def __init__(self, span: Span, metrics: RpcMetrics) -> None:
        self._span = span
        self._metrics = metrics
        self._begin = time.perf_counter()

    def __enter__(self) -> None:
        self._metrics.in_flight += 1

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        code = _code_of(error)
        self._metrics.in_flight -= 1
        self._metrics.observe(code, time.perf_counter() - self._begin)
        if code is not grpc.StatusCode.OK:
            telemetry.fail(self._span, code, fault=True)
        self._span.end()


def _code_of(error: BaseException | None) -> grpc.StatusCode:
    if error is None or isinstance(error, GeneratorExit):
        return grpc.StatusCode.OK
    return error.code() if isinstance(error, grpc.aio.AioRpcError) else grpc.StatusCode.CANCELLED


def _out_of_time() -> grpc.aio.AioRpcError:
    failure = errors.deadline_exceeded()
    trailing = grpc.aio.Metadata((errors.STATUS_DETAILS, failure.status().SerializeToString()))
    return grpc.aio.AioRpcError(failure.code, grpc.aio.Metadata(), trailing, failure.message)
