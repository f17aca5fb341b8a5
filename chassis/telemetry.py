"""Traces: one server span for each call, parts of the same trace from the edge to the last consumer."""

import functools
import time
from collections.abc import Awaitable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import grpc
from opentelemetry import context as context_api
from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.trace import Link, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from chassis.call import Call
from chassis.contract import MethodContract
from chassis.metrics import RpcMetrics
from chassis.otlp import Template
from chassis.settings import Settings
from chassis.spans import Recorder
from chassis.stage import Proceed
from chassis.tls import Certificates

_propagator = TraceContextTextMapPropagator()
_recorder = Recorder()

# The API's key of the current span in a context.
(_CURRENT_SPAN,) = trace.set_span_in_context(trace.INVALID_SPAN, Context())

_EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
_EXPORT_SECONDS = 5.0
_STATUS_CODE = "rpc.response.status_code"
# What says that the server, and not the caller, is at fault.
_SERVER_FAULTS = frozenset(
    (
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DATA_LOSS,
    )
)


class Exporter:
    """Sends batches of spans over mTLS, from the recorder's thread. Raises RpcError when a batch is lost."""

    def __init__(self, endpoint: str, server_name: str, certificates: Certificates | None) -> None:
        self._endpoint = endpoint
        self._server_name = server_name
        self._certificates = certificates if server_name else None
        self._generation = 0
        self._channel: grpc.Channel | None = None

    def __call__(self, request: ExportTraceServiceRequest) -> None:
        """Sends a batch, and waits until it is received."""
        send: grpc.UnaryUnaryMultiCallable[Any, Any] = self._connected().unary_unary(
            _EXPORT,
            request_serializer=ExportTraceServiceRequest.SerializeToString,
            response_deserializer=ExportTraceServiceResponse.FromString,
        )
        send(request, timeout=_EXPORT_SECONDS)

    def _connected(self) -> grpc.Channel:
        generation = self._certificates.generation() if self._certificates else 0
        if self._channel is not None and generation != self._generation:
            self._channel.close()
            self._channel = None
        self._generation = generation
        if self._channel is None:
            self._channel = self._open()
        return self._channel

    def _open(self) -> grpc.Channel:
        if self._certificates is None:
            return grpc.insecure_channel(self._endpoint)
        credentials = self._certificates.channel_credentials()
        options = (("grpc.ssl_target_name_override", self._server_name),)
        return grpc.secure_channel(self._endpoint, credentials, options)


def set_up(settings: Settings, certificates: Certificates | None) -> Recorder:
    """Starts to record traces, once per process; exports them when the settings say where to."""
    if not settings.otlp_endpoint:
        return install(Recorder())
    instance = settings.instance or f"{settings.host}:{settings.port}"
    return install(
        Recorder(
            Exporter(settings.otlp_endpoint, settings.otlp_server_name, certificates),
            ratio=settings.trace_sample_ratio,
            resource={"service.name": settings.service, "service.instance.id": instance},
        )
    )


def install(recorder: Recorder) -> Recorder:
    """Makes a recorder the process's own, behind the OpenTelemetry API too."""
    global _recorder  # noqa: PLW0603 (the API keeps one provider per process as well)
    _recorder = recorder
    propagate.set_global_textmap(_propagator)
    trace.set_tracer_provider(recorder)
    return recorder


def recorder() -> Recorder:
    """The process's recorder."""
    return _recorder


@contextmanager
def span(
    name: str,
    kind: SpanKind = SpanKind.INTERNAL,
    attributes: Mapping[str, Any] | None = None,
    *,
    parent: Mapping[str, str] | None = None,
    links: Sequence[Link] = (),
) -> Iterator[trace.Span]:
    """Records a piece of work as the current span; `parent` holds a `traceparent` from elsewhere.

    An exception marks the span as failed by its class alone, since its text may hold what nobody should read.
    """
    context = _propagator.extract(parent) if parent else None
    started = _recorder.start_span(name, context, kind, attributes, links)
    token = context_api.attach(trace.set_span_in_context(started, context))
    try:
        yield started
    except BaseException as error:
        started.set_status(Status(StatusCode.ERROR, type(error).__name__))
        raise
    finally:
        context_api.detach(token)
        started.end()


def trace_headers() -> dict[str, str]:
    """The trace context of the current span as `traceparent`; empty outside a trace."""
    carrier: dict[str, str] = {}
    _propagator.inject(carrier)
    return carrier


def trace_id() -> str:
    """The current trace in 32 hex digits; "" outside a trace."""
    context = trace.get_current_span().get_span_context()
    return f"{context.trace_id:032x}" if context.is_valid else ""


def rpc_template(contract: MethodContract, kind: SpanKind) -> Template:
    """What every span of an RPC has. It starts as OK, since most calls end so."""
    attributes = {"rpc.system.name": "grpc", "rpc.method": contract.path[1:], _STATUS_CODE: "OK"}
    return Template(contract.path[1:], kind, attributes)


def fail(failed: trace.Span, code: grpc.StatusCode, *, fault: bool) -> None:
    """Notes on an RPC's span how the call failed, and, if it is one, that this is a fault."""
    failed.set_attribute(_STATUS_CODE, code.name)
    if fault:
        failed.set_status(Status(StatusCode.ERROR, code.name))


@functools.cache
def _metrics_of(service: str, method: str) -> RpcMetrics:
    return RpcMetrics("server", service, method)


class Telemetry:
    """The stage that counts, times and traces a call."""

    def __init__(self, contract: MethodContract) -> None:
        self._template = rpc_template(contract, SpanKind.SERVER)
        self._metrics = _metrics_of(contract.service, contract.name)
        # A contract that is not ours cannot say so, but the receipt of spans must not be the cause of the next one.
        begins = contract.deployable and not contract.untraced
        self._start = _recorder.start if begins else _recorder.join

    def __call__(self, proceed: Proceed, request: Any, call: Call) -> Awaitable[Any]:
        call.span = self._start(self._template, call.metadata.get("traceparent", ""))
        # Never detached: the context ends with the task, and the task with the call.
        context_api.attach(Context({_CURRENT_SPAN: call.span}))
        self._metrics.in_flight += 1
        call.at_end(self._end)
        return proceed(request, call)

    def _end(self, call: Call) -> None:
        self._metrics.in_flight -= 1
        self._metrics.observe(call.code, time.monotonic() - call.arrived)
        if call.code is not grpc.StatusCode.OK:
            fail(call.span, call.code, fault=call.code in _SERVER_FAULTS)
        call.span.end()
