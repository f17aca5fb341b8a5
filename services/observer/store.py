"""The window of recent spans, in memory and bounded."""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, Span, Status


@dataclass(slots=True)
class StoredTrace:
    """One trace: its spans in wire format, and its summary, kept up to date."""

    trace_id: str
    sequence: int
    name: str = ""
    started_ns: int = 0
    ended_ns: int = 0
    errors: int = 0
    dropped: int = 0
    size: int = 0
    services: set[str] = field(default_factory=set)
    # Service and span by span id, so that an exporter's retry adds nothing. Serialized, since a parsed span takes
    # about five times the memory, and few are ever read.
    spans: dict[bytes, tuple[str, bytes]] = field(default_factory=dict)

    @property
    def duration_ms(self) -> float:
        return (self.ended_ns - self.started_ns) / 1e6

    def add(self, service: str, span: Span) -> int:
        """Adds a span; returns its size in bytes."""
        data = span.SerializeToString()
        self.spans[span.span_id] = (service, data)
        self.size += len(data)
        self.services.add(service)
        self.started_ns = min(self.started_ns or span.start_time_unix_nano, span.start_time_unix_nano)
        self.ended_ns = max(self.ended_ns, span.end_time_unix_nano)
        self.errors += span.status.code == Status.STATUS_CODE_ERROR
        if not span.parent_span_id:
            self.name = span.name
        return len(data)

    def parsed(self) -> Iterator[tuple[str, Span]]:
        for service, raw in self.spans.values():
            yield service, Span.FromString(raw)


@dataclass(frozen=True, slots=True)
class _Batch:
    """Spans in wire format that nobody has read yet."""

    spans: int
    data: bytes


class TraceStore:
    """Keeps at most `max_spans` spans and `max_bytes` bytes; traces that began to arrive first are dropped first.

    Spans arrive by the thousand, and a person reads some now and then: they are stored as they arrive, and parsed when
    somebody reads them.
    """

    def __init__(self, *, max_spans: int, max_spans_per_trace: int, max_bytes: int) -> None:
        self._max_spans = max_spans
        self._max_spans_per_trace = max_spans_per_trace
        self._max_bytes = max_bytes
        self._arrived: deque[_Batch] = deque()
        self._traces: OrderedDict[str, StoredTrace] = OrderedDict()
        self._span_count = 0
        self._bytes = 0
        self._sequence = 0

    def __len__(self) -> int:
        return len(self._traces)

    @property
    def span_count(self) -> int:
        """Number of spans that are kept, parsed or not."""
        return self._span_count

    @property
    def size(self) -> int:
        """Size of the spans that are kept, in bytes."""
        return self._bytes

    def add(self, request: ExportTraceServiceRequest) -> None:
        """Adds spans."""
        spans = sum(len(scope.spans) for resource in request.resource_spans for scope in resource.scope_spans)
        batch = _Batch(spans, request.SerializeToString())
        self._arrived.append(batch)
        self._count(spans, len(batch.data))
        self._evict()

    async def catch_up(self) -> None:
        """Parses the spans that have arrived, a batch at a time, so that other tasks get their turn."""
        while self._arrived:
            batch = self._arrived.popleft()
            self._count(-batch.spans, -len(batch.data))
            # Never more than the batch held, so nothing has to be dropped.
            self._take_apart(ExportTraceServiceRequest.FromString(batch.data))
            await asyncio.sleep(0)

    def get(self, trace_id: str) -> StoredTrace | None:
        return self._traces.get(trace_id)

    def newest_first(self) -> Iterator[StoredTrace]:
        """Traces by arrival, newest first."""
        return reversed(self._traces.values())

    def _take_apart(self, request: ExportTraceServiceRequest) -> None:
        for resource_spans in request.resource_spans:
            service = _service_name(resource_spans)
            for scope_spans in resource_spans.scope_spans:
                for span in scope_spans.spans:
                    self._add_span(service, span)

    def _add_span(self, service: str, span: Span) -> None:
        if len(span.trace_id) != 16 or len(span.span_id) != 8:
            return  # malformed ids
        trace = self._trace(span.trace_id.hex())
        if len(trace.spans) >= self._max_spans_per_trace:
            trace.dropped += 1
        elif span.span_id not in trace.spans:
            self._count(1, trace.add(service, span))

    def _trace(self, trace_id: str) -> StoredTrace:
        trace = self._traces.get(trace_id)
        if trace is None:
            self._sequence += 1
            trace = self._traces[trace_id] = StoredTrace(trace_id, self._sequence)
        return trace

    def _count(self, spans: int, size: int) -> None:
        self._span_count += spans
        self._bytes += size

    def _evict(self) -> None:
        """Drops the oldest spans: parsed traces arrived before unparsed batches."""
        while self._span_count > self._max_spans or self._bytes > self._max_bytes:
            if self._traces:
                _, oldest = self._traces.popitem(last=False)
                self._count(-len(oldest.spans), -oldest.size)
            else:
                batch = self._arrived.popleft()
                self._count(-batch.spans, -len(batch.data))


def _service_name(resource_spans: ResourceSpans) -> str:
    for attribute in resource_spans.resource.attributes:
        if attribute.key == "service.name":
            return attribute.value.string_value
    return "unknown"
