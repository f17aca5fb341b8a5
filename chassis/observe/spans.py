"""Spans that cost a call only a few attributes: the exporting thread does the rest of the work.

Every call in the mesh records several spans, so their cost is a cost of every call (docs/decisions/spans.md). Code that
records spans depends only on `opentelemetry.trace`.
"""

import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from opentelemetry import trace
from opentelemetry.attributes import BoundedAttributes
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, SpanLimits
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, Status, StatusCode, TraceFlags, TraceState
from opentelemetry.util.types import Attributes, AttributeValue

from chassis.observe import otlp
from chassis.observe.otlp import Template

SAMPLED = TraceFlags(TraceFlags.SAMPLED)
UNSAMPLED = TraceFlags(TraceFlags.DEFAULT)
_NO_TRACE_STATE = TraceState()
_SCOPE = InstrumentationScope("protomesh")
_NO_TRACE, _NO_SPAN = bytes(16), bytes(8)
_NO_PARENT = (b"", b"", False)
TRACEPARENT = 55  # characters of version 00


# Ids of the trace, the span, and its parent if it has one: 16, 8, and 8 or 0 bytes.
Ids = tuple[bytes, bytes, bytes]
Take: TypeAlias = Callable[["Span"], None]
# A span of this process, a `traceparent`, or the ids of a trace and of a parent.
Parent: TypeAlias = "Span | str | tuple[bytes, bytes]"


class Span(trace.Span):
    """A span that is being recorded. Not for use by several threads at once.

    It only keeps what it is given. The exporting thread computes the rest for many spans in a row, which costs a
    fraction of the same work during a call, where every cache is cold.
    """

    # Class defaults, since most spans never set these.
    _name = ""
    _attributes: dict[str, Any] | None = None
    _events: list[Event] | None = None
    _links: Sequence[Link] = ()
    _status: Status | None = None
    _context: SpanContext | None = None

    _ids: Ids | None = None
    _stop = 0

    def __init__(self, take: "Take", template: Template, parent: Parent) -> None:
        """`take` gets the span when it has ended."""
        self._take: Take | None = take
        self._template = template
        self._parent = parent
        self._start = time.time_ns()

    def end(self, end_time: int | None = None) -> None:
        """Hands the span over for export."""
        take, self._take = self._take, None
        if take is not None:
            self._stop = end_time or time.time_ns()
            take(self)

    @property
    def ids(self) -> Ids:
        """The ids of the trace, the span and its parent. For most spans, the export is the first to read them."""
        if self._ids is None:
            # Two threads may get here at once; the first result is kept.
            self.__dict__.setdefault("_ids", _ids_below(self._parent))
        assert self._ids is not None
        return self._ids

    def get_span_context(self) -> SpanContext:
        """The span context that children and other processes refer to."""
        if self._context is None:
            trace_id, span_id, _ = self.ids
            self._context = span_context(trace_id, span_id, SAMPLED)
        return self._context

    @property
    def parent(self) -> SpanContext | None:
        """The span context of the parent; None for a root."""
        trace_id, _, parent_id = self.ids
        remote = not isinstance(self._parent, Span)
        return span_context(trace_id, parent_id, SAMPLED, remote=remote) if parent_id else None

    def readable(self, resource: Resource, limits: SpanLimits) -> ReadableSpan:
        """The ended span in the form that the SDK's exporters take."""
        template = self._template
        attributes = BoundedAttributes(
            limits.max_span_attributes,
            {**template.attributes, **(self._attributes or {})},
            max_value_len=limits.max_span_attribute_length,
        )
        return ReadableSpan(
            self._name or template.name,
            self.get_span_context(),
            self.parent,
            resource,
            attributes,
            self._events or (),
            self._links,
            template.kind,
            status=self._status or Status(),
            start_time=self._start,
            end_time=self._stop,
            instrumentation_scope=_SCOPE,
        )

    def record(self) -> bytes:
        """The ended span in our own encoding."""
        template, own = self._template, b""
        if self._events or self._status or self._links or self._name:
            own = otlp.own(self._name, self._events, self._status, self._links)
        if self._attributes is not None:
            if self._attributes.keys().isdisjoint(template.attributes):
                own += otlp.attributes(self._attributes)
            else:
                both = {**template.attributes, **self._attributes}
                template = Template(template.name, template.kind, both)
        return template.record(self.ids, self._start, self._stop, own)

    def is_recording(self) -> bool:
        """Whether the span has not ended."""
        return self._take is not None

    def set_attributes(self, attributes: Mapping[str, AttributeValue]) -> None:
        """Sets attributes, which override those of the template."""
        if self.is_recording():
            self._attributes = {**(self._attributes or {}), **attributes}

    def set_attribute(self, key: str, value: AttributeValue) -> None:
        """Sets one attribute."""
        self.set_attributes({key: value})

    def add_event(self, name: str, attributes: Attributes = None, timestamp: int | None = None) -> None:
        """Records that something happened."""
        event = Event(name, attributes, timestamp or time.time_ns())
        self._events = [*(self._events or ()), event]

    def add_link(self, context: SpanContext, attributes: Attributes = None) -> None:
        """Links to a span of another trace."""
        self._links = (*self._links, Link(context, attributes))

    def update_name(self, name: str) -> None:
        """Renames the span."""
        self._name = name

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        """Sets the status that the span ends with."""
        self._status = status if isinstance(status, Status) else Status(status, description)

    def record_exception(
        self,
        exception: BaseException,
        attributes: Attributes = None,
        timestamp: int | None = None,
        escaped: bool = False,
    ) -> None:
        """Records an exception only by its class, since its text may hold sensitive data."""
        self.add_event(
            "exception", {"exception.type": type(exception).__name__, **(attributes or {})}, timestamp
        )


def parse(traceparent: str) -> tuple[bytes, bytes, bool]:
    """Trace id, span id and sampling flag of a W3C `traceparent`; the ids are empty when it is malformed."""
    if len(traceparent) < TRACEPARENT or traceparent[:2] == "ff":
        return _NO_PARENT
    try:
        trace_id, span_id = bytes.fromhex(traceparent[3:35]), bytes.fromhex(traceparent[36:52])
        sampled = bool(int(traceparent[53:55], 16) & 1)
    except ValueError:
        return _NO_PARENT
    # `fromhex` skips blanks between digits, so the lengths need a check.
    if len(trace_id) != 16 or len(span_id) != 8 or trace_id == _NO_TRACE or span_id == _NO_SPAN:
        return _NO_PARENT
    return trace_id, span_id, sampled


def _ids_below(parent: Parent) -> Ids:
    if isinstance(parent, Span):
        trace_id, parent_id, _ = parent.ids
    elif isinstance(parent, str):
        trace_id, parent_id, _ = parse(parent)
    else:
        trace_id, parent_id = parent
    return trace_id or new_trace_id(), new_span_id(), parent_id


def new_span_id() -> bytes:
    return random.getrandbits(64).to_bytes(8, "big")


def new_trace_id() -> bytes:
    return random.getrandbits(128).to_bytes(16, "big")


def span_context(trace_id: bytes, span_id: bytes, flags: TraceFlags, *, remote: bool = False) -> SpanContext:
    ids = int.from_bytes(trace_id, "big"), int.from_bytes(span_id, "big")
    return SpanContext(*ids, is_remote=remote, trace_flags=flags, trace_state=_NO_TRACE_STATE)
