"""The window of recent spans, in memory and bounded."""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, Span, Status


@dataclass(slots=True)
class StoredTrace:
    """One trace: its spans as they came over the wire, and what a list shows of it, kept up to date."""

    trace_id: str
    sequence: int
    name: str = ""
    started_ns: int = 0
    ended_ns: int = 0
    errors: int = 0
    dropped: int = 0
    services: set[str] = field(default_factory=set)
    # Service and span by span id, so that an exporter's retry adds nothing. Serialised: a parsed span costs
    # about five times the memory, and few are ever looked at.
    spans: dict[bytes, tuple[str, bytes]] = field(default_factory=dict)

    @property
    def duration_ms(self) -> float:
        return (self.ended_ns - self.started_ns) / 1e6

    def add(self, service: str, span: Span) -> None:
        self.spans[span.span_id] = (service, span.SerializeToString())
        self.services.add(service)
        self.started_ns = min(self.started_ns or span.start_time_unix_nano, span.start_time_unix_nano)
        self.ended_ns = max(self.ended_ns, span.end_time_unix_nano)
        self.errors += span.status.code == Status.STATUS_CODE_ERROR
        if not span.parent_span_id:
            self.name = span.name

    def parsed(self) -> Iterator[tuple[str, Span]]:
        for service, raw in self.spans.values():
            yield service, Span.FromString(raw)


class TraceStore:
    """Keeps at most `max_spans` spans; the traces that began to arrive first are the first to go."""

    def __init__(self, *, max_spans: int, max_spans_per_trace: int) -> None:
        self._max_spans = max_spans
        self._max_spans_per_trace = max_spans_per_trace
        self._traces: OrderedDict[str, StoredTrace] = OrderedDict()
        self._span_count = 0
        self._sequence = 0

    def __len__(self) -> int:
        return len(self._traces)

    @property
    def span_count(self) -> int:
        return self._span_count

    def add(self, request: ExportTraceServiceRequest) -> int:
        """Takes spans in; answers how many were refused for having no valid ids."""
        refused = 0
        for resource_spans in request.resource_spans:
            service = _service_name(resource_spans)
            for scope_spans in resource_spans.scope_spans:
                for span in scope_spans.spans:
                    refused += not self._add_span(service, span)
        self._evict()
        return refused

    def get(self, trace_id: str) -> StoredTrace | None:
        return self._traces.get(trace_id)

    def newest_first(self) -> Iterator[StoredTrace]:
        """Traces by arrival, the last first."""
        return reversed(self._traces.values())

    def _add_span(self, service: str, span: Span) -> bool:
        if len(span.trace_id) != 16 or len(span.span_id) != 8:
            return False
        trace = self._trace(span.trace_id.hex())
        if len(trace.spans) >= self._max_spans_per_trace:
            trace.dropped += 1
        elif span.span_id not in trace.spans:
            trace.add(service, span)
            self._span_count += 1
        return True

    def _trace(self, trace_id: str) -> StoredTrace:
        trace = self._traces.get(trace_id)
        if trace is None:
            self._sequence += 1
            trace = self._traces[trace_id] = StoredTrace(trace_id, self._sequence)
        return trace

    def _evict(self) -> None:
        while self._span_count > self._max_spans:
            _, oldest = self._traces.popitem(last=False)
            self._span_count -= len(oldest.spans)


def _service_name(resource_spans: ResourceSpans) -> str:
    for attribute in resource_spans.resource.attributes:
        if attribute.key == "service.name":
            return attribute.value.string_value
    return "unknown"
