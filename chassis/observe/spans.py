"""Spans at the price of a few attributes: the OpenTelemetry API, recorded for one purpose and exported in batches.

Every call of the mesh leaves several spans, so their price is the mesh's. The SDK's general machinery took a third of
an echo's time (docs/decisions/spans.md); what is left out here is what nobody uses: limits, processors, samplers.
Code that records spans knows only `opentelemetry.trace`.
"""

import collections
import logging
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
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

from chassis.observe import otlp
from chassis.observe.otlp import Template

logger = logging.getLogger(__name__)

Export = Callable[[ExportTraceServiceRequest], None]

# What a batch may have in bytes, well below the MiB that receivers take.
_BATCH_BYTES = 512 * 1024
_QUEUE = 16_384
_PAUSE_SECONDS = 1.0
_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_UNSAMPLED = TraceFlags(TraceFlags.DEFAULT)
_NO_TRACE_STATE = TraceState()
_NO_TRACE, _NO_SPAN = bytes(16), bytes(8)
_NO_PARENT = (b"", b"", False)
_TRACEPARENT = 55  # characters of version 00


# Of the trace, the span, and its parent if it has one: 16, 8, and 8 or no bytes.
Ids = tuple[bytes, bytes, bytes]
# A span of this process, a `traceparent`, or the ids of a trace and of a parent.
Parent: TypeAlias = "Span | str | tuple[bytes, bytes]"


class Span(trace.Span):
    """A span that is being recorded. Not for use by several threads at once.

    It keeps what it is told, and is worked out by the exporting thread: there many spans are, one after the other,
    for a fraction of what the same work costs amid a call, where it finds every cache cold.
    """

    # Defaults of the class, since most spans never set them.
    _name = ""
    _attributes: dict[str, Any] | None = None
    _events: list[trace_pb2.Span.Event] | None = None
    _links: Sequence[Link] = ()
    _status: Status | None = None
    _context: SpanContext | None = None

    _ids: Ids | None = None
    _stop = 0

    def __init__(self, recorder: "Recorder", template: Template, parent: Parent) -> None:
        self._recorder: Recorder | None = recorder
        self._template = template
        self._parent = parent
        self._start = time.time_ns()

    def end(self, end_time: int | None = None) -> None:
        """Hands the span over for export."""
        recorder, self._recorder = self._recorder, None
        if recorder is not None:
            self._stop = end_time or time.time_ns()
            recorder.take(self)

    @property
    def ids(self) -> Ids:
        """The ids of the trace, of the span, and of its parent. Most are first asked for by the export."""
        if self._ids is None:
            # It may be asked for by two threads at once; the first answer counts.
            self.__dict__.setdefault("_ids", _ids_below(self._parent))
        assert self._ids is not None
        return self._ids

    def get_span_context(self) -> SpanContext:
        """The ids that children and other processes refer to."""
        if self._context is None:
            trace_id, span_id, _ = self.ids
            self._context = _span_context(trace_id, span_id, _SAMPLED)
        return self._context

    def record(self) -> bytes:
        """The span as it is exported, once it has ended."""
        template, own = self._template, b""
        if self._attributes is not None:
            template = Template(template.name, template.kind, {**template.attributes, **self._attributes})
        if self._events or self._status or self._links or self._name:
            own = otlp.own(self._name, self._events, self._status, self._links)
        return template.record(self.ids, self._start, self._stop, own)

    def is_recording(self) -> bool:
        """Whether the span has not ended."""
        return self._recorder is not None

    def set_attributes(self, attributes: Mapping[str, AttributeValue]) -> None:
        """Sets attributes, over those of the template."""
        if self.is_recording():
            self._attributes = {**(self._attributes or {}), **attributes}

    def set_attribute(self, key: str, value: AttributeValue) -> None:
        """Sets one attribute."""
        self.set_attributes({key: value})

    def add_event(self, name: str, attributes: Attributes = None, timestamp: int | None = None) -> None:
        """Notes that something happened."""
        event = trace_pb2.Span.Event(
            name=name, time_unix_nano=timestamp or time.time_ns(), attributes=otlp.pairs(attributes or {})
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


class Recorder(trace.TracerProvider, trace.Tracer):
    """Starts spans, and exports them from a thread of its own. What comes faster than it can be sent is dropped."""

    def __init__(
        self,
        export: Export | None = None,
        *,
        ratio: float = 1.0,
        resource: Mapping[str, str] | None = None,
    ) -> None:
        self._export = export
        self._bound = round(ratio * (1 << 64)) if export is not None else 0
        self._resource = resource or {}
        self._queue: collections.deque[Span] = collections.deque(maxlen=_QUEUE)
        # Queues an ended span, in the place of the oldest when there is no room.
        self.take = self._queue.append
        self._wake = threading.Event()
        self._exporting = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="spans", daemon=True)
        if export is not None:
            self._thread.start()

    def get_tracer(self, *_: object, **__: object) -> trace.Tracer:
        """The recorder itself: which module recorded a span is in the span's name."""
        return self

    def start(self, template: Template, traceparent: str = "") -> trace.Span:
        """A span whose parent, if any, is in another process."""
        if self._export is not None and len(traceparent) == _TRACEPARENT and traceparent.endswith("-01"):
            return Span(self, template, traceparent)
        trace_id, parent_id, sampled = _parse(traceparent)
        if not trace_id:
            trace_id = _new_trace_id()
            sampled = int.from_bytes(trace_id[8:], "big") < self._bound
        return self._span(template, trace_id, parent_id, sampled)

    def join(self, template: Template, traceparent: str = "") -> trace.Span:
        """A span below a parent in another process; without one it is not recorded."""
        trace_id, parent_id, sampled = _parse(traceparent)
        return self._span(template, trace_id or _new_trace_id(), parent_id, sampled)

    def start_child(self, template: Template, parent: trace.Span | None = None) -> trace.Span:
        """A span below another, the current one unless it is given, or at the root of a new trace."""
        parent = parent or trace.get_current_span()
        if type(parent) is Span:
            return Span(self, template, parent)
        context = parent.get_span_context()
        if not context.is_valid:
            return self.start(template)
        ids = context.trace_id.to_bytes(16, "big"), context.span_id.to_bytes(8, "big")
        return self._span(template, *ids, context.trace_flags.sampled)

    def _span(self, template: Template, trace_id: bytes, parent_id: bytes, sampled: bool) -> trace.Span:
        if sampled and self._export is not None:
            return Span(self, template, (trace_id, parent_id))
        # It still names the trace, for logs and for whoever is called next.
        flags = _SAMPLED if sampled else _UNSAMPLED
        return NonRecordingSpan(_span_context(trace_id, _new_span_id(), flags))

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
        span = self.start_child(Template(name, kind, attributes), trace.get_current_span(context))
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

    def flush(self) -> None:
        """Exports what is queued."""
        with self._exporting:
            while self._queue:
                self._send(list(self._batch()))

    def _send(self, records: Sequence[bytes]) -> None:
        assert self._export is not None
        try:
            self._export(otlp.request(self._resource, records))
        except Exception as error:  # noqa: BLE001 (whatever it is, spans never hold anything up)
            logger.debug("%d spans were lost: %s", len(records), error)

    def _batch(self) -> Iterator[bytes]:
        size = 0
        while self._queue and size < _BATCH_BYTES:
            span = self._queue.popleft()
            try:
                record = span.record()
            except Exception as error:  # noqa: BLE001 (an attribute that cannot be encoded costs its own span alone)
                logger.debug("A span was lost: %s", error)
                continue
            size += len(record)
            yield record

    def shutdown(self) -> None:
        """Exports the rest and stops."""
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(10)

    def _run(self) -> None:
        while not self._wake.wait(_PAUSE_SECONDS):
            self.flush()
        self.flush()


def _parse(traceparent: str) -> tuple[bytes, bytes, bool]:
    """Trace id, span id and whether it is sampled, of a W3C `traceparent`; the ids are empty when it is damaged."""
    if len(traceparent) < _TRACEPARENT or traceparent[:2] == "ff":
        return _NO_PARENT
    try:
        trace_id, span_id = bytes.fromhex(traceparent[3:35]), bytes.fromhex(traceparent[36:52])
        sampled = bool(int(traceparent[53:55], 16) & 1)
    except ValueError:
        return _NO_PARENT
    # Blanks between digits are none to `fromhex`.
    if len(trace_id) != 16 or len(span_id) != 8 or trace_id == _NO_TRACE or span_id == _NO_SPAN:
        return _NO_PARENT
    return trace_id, span_id, sampled


def _ids_below(parent: Parent) -> Ids:
    if isinstance(parent, Span):
        trace_id, parent_id, _ = parent.ids
    elif isinstance(parent, str):
        trace_id, parent_id, _ = _parse(parent)
    else:
        trace_id, parent_id = parent
    return trace_id or _new_trace_id(), _new_span_id(), parent_id


def _new_span_id() -> bytes:
    return random.getrandbits(64).to_bytes(8, "big")


def _new_trace_id() -> bytes:
    return random.getrandbits(128).to_bytes(16, "big")


def _span_context(trace_id: bytes, span_id: bytes, flags: TraceFlags) -> SpanContext:
    ids = int.from_bytes(trace_id, "big"), int.from_bytes(span_id, "big")
    return SpanContext(*ids, is_remote=False, trace_flags=flags, trace_state=_NO_TRACE_STATE)
