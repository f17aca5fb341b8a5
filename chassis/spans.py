"""Spans at the price of a few attributes: the OpenTelemetry API, recorded for one purpose and exported in batches.

Every call of the mesh leaves several spans, so their price is the mesh's. The SDK's general machinery took a third of
an echo's time (docs/decisions/spans.md); what is left out here is what nobody uses: limits, processors, samplers.
Code that records spans knows only `opentelemetry.trace`.
"""

import collections
import logging
import random
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue
from opentelemetry.proto.trace.v1 import trace_pb2
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
)
from opentelemetry.util._decorator import _agnosticcontextmanager
from opentelemetry.util.types import Attributes, AttributeValue

logger = logging.getLogger(__name__)

Export = Callable[[ExportTraceServiceRequest], None]
# What is kept of a span until it is exported, as cheap for its call as can be: the encoding of what it has in common
# with others, its ids (trace, span, parent), when it began and ended, and the encoding of what it has of its own.
Ended = tuple[bytes, tuple[int, int, int], int, int, bytes]

_BATCH = 1024
_QUEUE = 16_384
_PAUSE_SECONDS = 1.0
_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_UNSAMPLED = TraceFlags(TraceFlags.DEFAULT)
_NO_TRACE_STATE = TraceState()
_NO_ATTRIBUTES: Mapping[str, Any] = {}


# Field numbers and wire types of opentelemetry.proto.trace.v1.Span, before values whose width never changes.
_TRACE_ID, _SPAN_ID, _PARENT_ID = b"\x0a\x10", b"\x12\x08", b"\x22\x08"
_ITEM = b"\x12"  # the field `spans` of ScopeSpans
_START, _STOP = b"\x39", b"\x41"
_FIXED = struct.Struct("<2s16s2s8scQcQ")

_VALUE_FIELDS: Mapping[type, Any] = {
    bool: "bool_value",
    int: "int_value",
    float: "double_value",
    str: "string_value",
    bytes: "bytes_value",
}


class Template:
    """What all spans of one RPC have in common, encoded once."""

    __slots__ = ("attributes", "encoded", "kind", "name")

    def __init__(self, name: str, kind: SpanKind, attributes: Mapping[str, Any] = _NO_ATTRIBUTES) -> None:
        self.name = name
        self.kind = kind
        self.attributes = attributes
        self.encoded = _encode_template(name, kind, attributes)


class Span(trace.Span):
    """A span that is being recorded. Not for use by several threads at once."""

    # Defaults of the class, since most spans never set them.
    _name = ""
    _attributes: dict[str, Any] | None = None
    _events: list[trace_pb2.Span.Event] | None = None
    _links: Sequence[Link] = ()
    _status: Status | None = None
    _context: SpanContext | None = None

    def __init__(self, recorder: "Recorder", template: Template, trace_id: int, parent_id: int) -> None:
        self._recorder: Recorder | None = recorder
        self._template = template
        self.trace_id = trace_id
        self.parent_id = parent_id
        self.span_id = random.getrandbits(64) or 1
        self._start = time.time_ns()

    def end(self, end_time: int | None = None) -> None:
        """Hands the span over for export."""
        recorder, self._recorder = self._recorder, None
        if recorder is not None:
            stop = end_time or time.time_ns()
            ids = (self.trace_id, self.span_id, self.parent_id)
            common = self._template.encoded if self._attributes is None else self._common(self._attributes)
            owns = self._events or self._status or self._links or self._name
            recorder.take((common, ids, self._start, stop, self._own() if owns else b""))

    def get_span_context(self) -> SpanContext:
        """The ids that children and other processes refer to."""
        if self._context is None:
            self._context = SpanContext(self.trace_id, self.span_id, False, _SAMPLED, _NO_TRACE_STATE)
        return self._context

    def traceparent(self) -> str:
        """The span as a W3C `traceparent` header."""
        return f"00-{self.trace_id:032x}-{self.span_id:016x}-01"

    def is_recording(self) -> bool:
        """Whether the span has not ended."""
        return self._recorder is not None

    def set_attributes(self, attributes: Mapping[str, AttributeValue]) -> None:
        """Sets attributes, over those of the template."""
        if self._attributes is None:
            self._attributes = {}
        self._attributes.update(attributes)

    def set_attribute(self, key: str, value: AttributeValue) -> None:
        """Sets one attribute."""
        self.set_attributes({key: value})

    def add_event(self, name: str, attributes: Attributes = None, timestamp: int | None = None) -> None:
        """Notes that something happened."""
        event = trace_pb2.Span.Event(
            name=name, time_unix_nano=timestamp or time.time_ns(), attributes=_encode(attributes or {})
        )
        self._events = [*(self._events or ()), event]

    def add_link(self, context: SpanContext, attributes: Attributes = None) -> None:
        """Points to a span of another trace."""
        self._links = (*self._links, Link(context, attributes))

    def update_name(self, name: str) -> None:
        """Renames the span."""
        self._name = name

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        """Says how it ended."""
        self._status = status if isinstance(status, Status) else Status(status, description)

    def record_exception(
        self,
        exception: BaseException,
        attributes: Attributes = None,
        timestamp: int | None = None,
        escaped: bool = False,
    ) -> None:
        """Notes an exception by its class; its text may hold what nobody should read."""
        self.add_event(
            "exception", {"exception.type": type(exception).__name__, **(attributes or {})}, timestamp
        )

    def _common(self, attributes: Mapping[str, Any]) -> bytes:
        template = self._template
        return _encode_template(template.name, template.kind, {**template.attributes, **attributes})

    def _own(self) -> bytes:
        message = trace_pb2.Span(name=self._name, events=self._events)
        if self._status is not None:
            # The API's UNSET, OK and ERROR have the numbers of OTLP's.
            message.status.code = self._status.status_code.value  # type: ignore[assignment]
            message.status.message = self._status.description or ""
        for link in self._links:
            message.links.add(
                trace_id=link.context.trace_id.to_bytes(16, "big"),
                span_id=link.context.span_id.to_bytes(8, "big"),
                attributes=_encode(link.attributes or {}),
            )
        return message.SerializeToString()


class Recorder(trace.TracerProvider, trace.Tracer):
    """Starts spans, and exports them from a thread of its own. What comes faster than it can be sent is dropped."""

    def __init__(
        self,
        export: Export | None = None,
        *,
        ratio: float = 1.0,
        resource: Mapping[str, str] = _NO_ATTRIBUTES,
    ) -> None:
        self._export = export
        self._bound = round(ratio * (1 << 64)) if export is not None else 0
        self._resource = resource
        self._queue: collections.deque[Ended] = collections.deque()
        self._wake = threading.Event()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="spans", daemon=True)
        if export is not None:
            self._thread.start()

    def get_tracer(self, *_: object, **__: object) -> trace.Tracer:
        """The recorder itself: which module recorded a span is in the span's name."""
        return self

    def start(self, template: Template, traceparent: str = "") -> trace.Span:
        """A span whose parent, if any, is in another process."""
        trace_id, parent_id, sampled = _parse(traceparent) if traceparent else (0, 0, False)
        if not trace_id:
            trace_id = random.getrandbits(128) or 1
            sampled = trace_id & 0xFFFF_FFFF_FFFF_FFFF < self._bound
        return self._span(template, trace_id, parent_id, sampled)

    def join(self, template: Template, traceparent: str = "") -> trace.Span:
        """A span below a parent in another process; without one it is not recorded."""
        trace_id, parent_id, sampled = _parse(traceparent) if traceparent else (0, 0, False)
        return self._span(template, trace_id or random.getrandbits(128) or 1, parent_id, sampled)

    def start_child(self, template: Template) -> trace.Span:
        """A span below the current one, or at the root of a new trace."""
        parent = trace.get_current_span()
        if type(parent) is Span:
            return self._span(template, parent.trace_id, parent.span_id, True)
        context = parent.get_span_context()
        if not context.is_valid:
            return self.start(template)
        return self._span(template, context.trace_id, context.span_id, context.trace_flags.sampled)

    def _span(self, template: Template, trace_id: int, parent_id: int, sampled: bool) -> trace.Span:
        if sampled and self._export is not None:
            return Span(self, template, trace_id, parent_id)
        # It still names the trace, for logs and for whoever is called next.
        flags = _SAMPLED if sampled else _UNSAMPLED
        span_id = random.getrandbits(64) or 1
        return NonRecordingSpan(SpanContext(trace_id, span_id, False, flags, _NO_TRACE_STATE))

    def start_span(
        self,
        name: str,
        context: Context | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        start_time: int | None = None,
        record_exception: bool = True,
        set_status_on_exception: bool = True,
    ) -> trace.Span:
        """The OpenTelemetry API's way to start a span."""
        template = Template(name, kind, attributes or _NO_ATTRIBUTES)
        parent = trace.get_current_span(context).get_span_context()
        if parent.is_valid:
            span = self._span(template, parent.trace_id, parent.span_id, parent.trace_flags.sampled)
        else:
            span = self.start(template)
        if isinstance(span, Span):
            span._links = links or ()  # noqa: SLF001
            span._start = start_time or span._start  # noqa: SLF001
        return span

    @_agnosticcontextmanager
    def start_as_current_span(
        self,
        name: str,
        context: Context | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        start_time: int | None = None,
        record_exception: bool = True,
        set_status_on_exception: bool = True,
        end_on_exit: bool = True,
    ) -> Iterator[trace.Span]:
        """The OpenTelemetry API's way to start a span and make it the current one."""
        span = self.start_span(name, context, kind, attributes, links, start_time)
        with trace.use_span(span, end_on_exit, record_exception, set_status_on_exception):
            yield span

    def take(self, span: Ended) -> None:
        """Queues an ended span."""
        if len(self._queue) < _QUEUE and not self._closed:
            self._queue.append(span)

    def flush(self) -> None:
        """Exports what is queued."""
        while self._queue:
            count = min(len(self._queue), _BATCH)
            request = self._request([self._queue.popleft() for _ in range(count)])
            assert self._export is not None
            try:
                self._export(request)
            except Exception as error:  # noqa: BLE001 (whatever it is, spans never hold anything up)
                logger.debug("%d spans were lost: %s", count, error)

    def shutdown(self) -> None:
        """Exports the rest and stops."""
        self._closed = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(10)

    def _run(self) -> None:
        while not self._wake.wait(_PAUSE_SECONDS):
            self.flush()
        self.flush()

    def _request(self, spans: Sequence[Ended]) -> ExportTraceServiceRequest:
        request = ExportTraceServiceRequest()
        resource_spans = request.resource_spans.add()
        resource_spans.resource.attributes.extend(_encode(self._resource))
        scope_spans = resource_spans.scope_spans.add()
        scope_spans.scope.name = "protomesh"
        # All at once: what is done for each span on its own is what a span costs.
        scope_spans.MergeFromString(b"".join(map(_delimited, spans)))
        return request


def _delimited(ended: Ended) -> bytes:
    """An ended span as an item of `ScopeSpans.spans`.

    A message's encodings, one after the other, are the encoding of all their fields together: first the template's,
    then that of the ids and times, then what this span has of its own.
    """
    common, (trace_id, span_id, parent_id), start, stop, own = ended
    fixed = _FIXED.pack(
        _TRACE_ID,
        trace_id.to_bytes(16, "big"),
        _SPAN_ID,
        span_id.to_bytes(8, "big"),
        _START,
        start,
        _STOP,
        stop,
    )
    parent = _PARENT_ID + parent_id.to_bytes(8, "big") if parent_id else b""
    length = len(common) + len(fixed) + len(parent) + len(own)
    return b"".join((_ITEM, _varint(length), common, fixed, parent, own))


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _parse(traceparent: str) -> tuple[int, int, bool]:
    """Trace id, span id and whether it is sampled, of a W3C `traceparent`; zeros when it is damaged."""
    if len(traceparent) < 55 or traceparent[2] != "-" or traceparent[:2] == "ff":
        return 0, 0, False
    try:
        trace_id, span_id = int(traceparent[3:35], 16), int(traceparent[36:52], 16)
        sampled = bool(int(traceparent[53:55], 16) & 1)
    except ValueError:
        return 0, 0, False
    return (trace_id, span_id, sampled) if trace_id and span_id else (0, 0, False)


def _encode_template(name: str, kind: SpanKind, attributes: Mapping[str, Any]) -> bytes:
    # The API counts kinds from INTERNAL = 0, OTLP from UNSPECIFIED = 0.
    otlp_kind: Any = kind.value + 1
    return trace_pb2.Span(name=name, kind=otlp_kind, attributes=_encode(attributes)).SerializeToString()


def _encode(attributes: Mapping[str, Any]) -> list[KeyValue]:
    return [KeyValue(key=key, value=_value(value)) for key, value in attributes.items()]


def _value(value: Any) -> AnyValue:
    if isinstance(value, list | tuple):
        return AnyValue(array_value=ArrayValue(values=[_value(item) for item in value]))
    field = _VALUE_FIELDS.get(type(value))
    return AnyValue(**{field: value}) if field else AnyValue(string_value=str(value))
