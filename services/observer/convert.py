"""Stored trace ↔ message."""

from google.protobuf.timestamp_pb2 import Timestamp
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1 import trace_pb2 as otlp
from protomesh.observer.v1.trace_pb2 import Span, Trace, TraceSummary

from services.observer.store import StoredTrace

# OTLP numbers kinds as our contract does; unknown kinds become `kind_unspecified`.
_KINDS: frozenset[int] = frozenset(Span.Kind.values())


def summary(trace: StoredTrace) -> TraceSummary:
    return TraceSummary(
        trace_id=trace.trace_id,
        name=trace.name,
        started_at=_timestamp(trace.started_ns),
        duration_ms=trace.duration_ms,
        span_count=len(trace.spans),
        error_count=trace.errors,
        services=sorted(trace.services),
    )


def trace_message(trace: StoredTrace) -> Trace:
    spans = sorted(trace.parsed(), key=lambda pair: pair[1].start_time_unix_nano)
    return Trace(
        trace_id=trace.trace_id,
        spans=[_span(service, span) for service, span in spans],
        dropped_spans=trace.dropped,
    )


def _span(service: str, span: otlp.Span) -> Span:
    return Span(
        span_id=span.span_id.hex(),
        parent_span_id=span.parent_span_id.hex(),
        service=service,
        name=span.name,
        kind=_kind(span.kind),
        started_at=_timestamp(span.start_time_unix_nano),
        duration_ms=(span.end_time_unix_nano - span.start_time_unix_nano) / 1e6,
        error=span.status.code == otlp.Status.STATUS_CODE_ERROR,
        error_message=span.status.message,
        attributes={attribute.key: _text(attribute.value) for attribute in span.attributes},
    )


def _kind(number: int) -> Span.Kind.ValueType:
    return Span.Kind.ValueType(number if number in _KINDS else 0)


def _text(value: AnyValue) -> str:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return ", ".join(_text(item) for item in value.array_value.values)
    return "" if kind is None else str(getattr(value, kind))


def _timestamp(nanoseconds: int) -> Timestamp:
    return Timestamp(seconds=nanoseconds // 1_000_000_000, nanos=nanoseconds % 1_000_000_000)
