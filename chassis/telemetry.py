"""Traces: one server span for each call, parts of the same trace from the edge to the last consumer."""

import asyncio
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import grpc
from opentelemetry import context as context_api
from opentelemetry import propagate, trace
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from chassis.call import Call
from chassis.contract import MethodContract
from chassis.metrics import ServerMetrics
from chassis.settings import Settings
from chassis.stage import Proceed
from chassis.tls import Certificates

logger = logging.getLogger(__name__)
tracer = trace.get_tracer("chassis")
_propagator = TraceContextTextMapPropagator()

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


class OtlpExporter(SpanExporter):
    """Sends batches of spans over mTLS. A batch that cannot be delivered is dropped: spans never hold up calls."""

    def __init__(self, endpoint: str, server_name: str, certificates: Certificates | None) -> None:
        self._endpoint = endpoint
        self._server_name = server_name
        self._certificates = certificates if server_name else None
        self._generation = -1
        self._channel: grpc.Channel | None = None

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Runs in the batch processor's thread."""
        send: grpc.UnaryUnaryMultiCallable[Any, Any] = self._connected().unary_unary(
            _EXPORT,
            request_serializer=lambda request: request.SerializeToString(),
            response_deserializer=ExportTraceServiceResponse.FromString,
        )
        try:
            send(encode_spans(spans), timeout=_EXPORT_SECONDS)
        except grpc.RpcError as error:
            logger.debug("Dropped %d spans: %s", len(spans), error)
            return SpanExportResult.FAILURE
        return SpanExportResult.SUCCESS

    def _connected(self) -> grpc.Channel:
        generation = self._certificates.generation() if self._certificates else 0
        if self._channel is None or generation != self._generation:
            self.shutdown()
            self._generation = generation
            self._channel = self._open()
        return self._channel

    def _open(self) -> grpc.Channel:
        if self._certificates is None:
            return grpc.insecure_channel(self._endpoint)
        credentials = self._certificates.channel_credentials()
        options = (("grpc.ssl_target_name_override", self._server_name),)
        return grpc.secure_channel(self._endpoint, credentials, options)

    def shutdown(self) -> None:
        """Closes the connection."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None


def set_up(settings: Settings, certificates: Certificates | None) -> TracerProvider | None:
    """Starts to record and export traces, once per process; None when nowhere to export to is set."""
    propagate.set_global_textmap(_propagator)
    if not settings.otlp_endpoint:
        return None
    instance = settings.instance or f"{settings.host}:{settings.port}"
    resource = Resource.create({"service.name": settings.service, "service.instance.id": instance})
    provider = TracerProvider(
        resource=resource,
        sampler=ParentBased(TraceIdRatioBased(settings.trace_sample_ratio)),
        shutdown_on_exit=False,
    )
    exporter = OtlpExporter(settings.otlp_endpoint, settings.otlp_server_name, certificates)
    # Large batches, since one export costs more than the spans in it; a second is soon enough for a reader.
    provider.add_span_processor(
        BatchSpanProcessor(
            exporter, max_queue_size=16_384, max_export_batch_size=1024, schedule_delay_millis=1000
        )
    )
    trace.set_tracer_provider(provider)
    return provider


@contextmanager
def span(
    name: str,
    kind: SpanKind = SpanKind.INTERNAL,
    attributes: Mapping[str, Any] | None = None,
    *,
    parent: Mapping[str, str] | None = None,
    links: Sequence[Link] = (),
) -> Iterator[Span]:
    """Records a piece of work as the current span; `parent` holds a `traceparent` from elsewhere.

    An exception marks the span as failed by its class alone, since its text may hold what nobody should read.
    """
    context = _propagator.extract(parent) if parent else None
    started = tracer.start_span(name, context, kind, attributes, links)
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
    """The trace context of the current span as `traceparent` and `tracestate`; empty outside a trace."""
    carrier: dict[str, str] = {}
    _propagator.inject(carrier)
    return carrier


def trace_id() -> str:
    """The current trace in 32 hex digits; "" outside a trace."""
    context = trace.get_current_span().get_span_context()
    return f"{context.trace_id:032x}" if context.is_valid else ""


def rpc_attributes(contract: MethodContract) -> dict[str, str]:
    """The attributes that every span of an RPC has. It starts as OK, since most calls end so."""
    return {"rpc.system.name": "grpc", "rpc.method": contract.path[1:], _STATUS_CODE: "OK"}


def fail(span_: Span, code: grpc.StatusCode, *, fault: bool) -> None:
    """Notes on an RPC's span how the call failed, and, if it is one, that this is a fault."""
    span_.set_attribute(_STATUS_CODE, code.name)
    if fault:
        span_.set_status(Status(StatusCode.ERROR, code.name))


class Telemetry:
    """The stage that counts, times and traces a call."""

    def __init__(self, contract: MethodContract) -> None:
        self._name = contract.path[1:]
        self._attributes = rpc_attributes(contract)
        self._metrics = ServerMetrics(contract.service, contract.name)

    async def __call__(self, request: Any, call: Call, proceed: Proceed) -> Any:
        parent = _propagator.extract(call.metadata) if "traceparent" in call.metadata else None
        started = tracer.start_span(self._name, parent, SpanKind.SERVER, self._attributes)
        # Never detached: the context ends with the task, and the task with the call.
        context_api.attach(trace.set_span_in_context(started, parent))
        begin = time.perf_counter()
        code = grpc.StatusCode.CANCELLED
        self._metrics.in_flight.inc()
        try:
            answer = await proceed(request, call)
            code = call.failure.code if call.failure else grpc.StatusCode.OK
            return answer
        except asyncio.CancelledError:
            # The client is told by its own clock; here the cancellation looks the same as a client that left.
            code = grpc.StatusCode.CANCELLED if call.remaining() > 0 else grpc.StatusCode.DEADLINE_EXCEEDED
            raise
        finally:
            self._metrics.finish(code, time.perf_counter() - begin)
            if code is not grpc.StatusCode.OK:
                fail(started, code, fault=code in _SERVER_FAULTS)
            started.end()
