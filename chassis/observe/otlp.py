"""The OTLP encoding of spans, assembled from pieces that are encoded as rarely as possible.

Concatenated encodings of a message are the encoding of all their fields together. So a span is the encoding of its
template, then its ids and times, whose width never changes, then the fields that only a few spans have.
"""

import logging
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from opentelemetry.sdk.trace import Event
from opentelemetry.trace import Link, SpanKind, Status

logger = logging.getLogger(__name__)

# Well below the 1 MiB that receivers accept.
_REQUEST_BYTES = 512 * 1024

# Field numbers and wire types of opentelemetry.proto.trace.v1.Span: ids of a fixed length, and fixed64 times.
_TRACE_ID, _SPAN_ID, _PARENT_ID, _START, _STOP = b"\x0a\x10", b"\x12\x08", b"\x22\x08", b"\x39", b"\x41"
_ROOT = struct.Struct("<2s16s2s8scQcQ")
_CHILD = struct.Struct("<2s16s2s8s2s8scQcQ")
_ITEM = b"\x12"  # the field `spans` of ScopeSpans

_VALUE_FIELDS: Mapping[type, Any] = {
    bool: "bool_value",
    int: "int_value",
    float: "double_value",
    str: "string_value",
    bytes: "bytes_value",
}


class Template:
    """What all spans of one RPC have in common, encoded once, with the first span that is recorded."""

    __slots__ = ("_child", "_encoded", "_root", "attributes", "kind", "name")

    def __init__(self, name: str, kind: SpanKind, attributes: Mapping[str, Any] | None = None) -> None:
        self.name = name
        self.kind = kind
        self.attributes = attributes or {}
        self._encoded = self._root = self._child = b""

    def _encode(self) -> None:
        # The API counts kinds from INTERNAL = 0, OTLP from UNSPECIFIED = 0.
        otlp_kind: Any = self.kind.value + 1
        span = Span(name=self.name, kind=otlp_kind, attributes=pairs(self.attributes))
        encoded = span.SerializeToString()
        self._root = _item(encoded, _ROOT.size)
        self._child = _item(encoded, _CHILD.size)
        self._encoded = encoded

    def record(self, ids: tuple[bytes, bytes, bytes], start: int, stop: int, own: bytes = b"") -> bytes:
        """A span, as an item of `ScopeSpans.spans`.

        `ids` are those of the trace (16 bytes), the span (8) and its parent (8 or 0); times are nanoseconds since
        1970; `own` is the encoding of the span's other fields.
        """
        if not self._encoded:
            self._encode()
        trace_id, span_id, parent_id = ids
        if parent_id:
            parent = (_PARENT_ID, parent_id)
            packed = _CHILD.pack(_TRACE_ID, trace_id, _SPAN_ID, span_id, *parent, _START, start, _STOP, stop)
            item = self._child
        else:
            packed = _ROOT.pack(_TRACE_ID, trace_id, _SPAN_ID, span_id, _START, start, _STOP, stop)
            item = self._root
        if own:
            return _item(self._encoded, len(packed) + len(own)) + packed + own
        return item + packed


def own(name: str, events: Sequence[Event] | None, status: Status | None, links: Iterable[Link]) -> bytes:
    """The encoding of a span's fields that are not in its template."""
    message = Span(name=name)
    for event in events or ():
        message.events.add(
            name=event.name, time_unix_nano=event.timestamp, attributes=pairs(event.attributes or {})
        )
    if status is not None:
        # The API's UNSET, OK and ERROR have the numbers of OTLP's.
        message.status.code = status.status_code.value  # type: ignore[assignment]
        message.status.message = status.description or ""
    for link in links:
        message.links.add(
            trace_id=link.context.trace_id.to_bytes(16, "big"),
            span_id=link.context.span_id.to_bytes(8, "big"),
            attributes=pairs(link.attributes or {}),
        )
    return message.SerializeToString()


def attributes(added: Mapping[str, Any]) -> bytes:
    """The encoding of attributes that a span has beside those of its template."""
    return Span(attributes=pairs(added)).SerializeToString()


def pairs(attributes: Mapping[str, Any]) -> list[KeyValue]:
    """Attributes in the form of OTLP."""
    return [KeyValue(key=key, value=_value(value)) for key, value in attributes.items()]


def request(resource: Mapping[str, Any], records: Iterable[bytes]) -> ExportTraceServiceRequest:
    """The request sent to a collector."""
    message = ExportTraceServiceRequest()
    resource_spans = message.resource_spans.add()
    resource_spans.resource.attributes.extend(pairs(resource))
    scope_spans = resource_spans.scope_spans.add()
    scope_spans.scope.name = "protomesh"
    # One call for all spans: work that is repeated for each span is what makes spans expensive.
    scope_spans.MergeFromString(b"".join(records))
    return message


class Recorded(Protocol):
    """A span that has ended."""

    def record(self) -> bytes:
        """The span as an item of `ScopeSpans.spans`."""


class OtlpExport:
    """Encodes spans as OTLP and sends them in requests that are small enough for every receiver."""

    def __init__(
        self, send: Callable[[ExportTraceServiceRequest], None], resource: Mapping[str, Any] | None = None
    ) -> None:
        self._send = send
        self._resource = resource or {}

    def __call__(self, spans: Sequence[Recorded]) -> None:
        """Sends spans that have ended."""
        records: list[bytes] = []
        size = 0
        for span in spans:
            record = _encoded(span)
            size += len(record)
            if size > _REQUEST_BYTES and records:
                self._send(request(self._resource, records))
                records, size = [], len(record)
            records.append(record)
        self._send(request(self._resource, records))


def _encoded(span: Recorded) -> bytes:
    try:
        return span.record()
    except Exception as error:  # noqa: BLE001 (an attribute that cannot be encoded costs only its own span)
        logger.debug("A span was lost: %s", error)
        return b""


def _item(encoded: bytes, rest: int) -> bytes:
    """The head of an item of `ScopeSpans.spans`; `rest` more bytes follow it."""
    return _ITEM + _varint(len(encoded) + rest) + encoded


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _value(value: Any) -> AnyValue:
    if isinstance(value, list | tuple):
        return AnyValue(array_value=ArrayValue(values=[_value(item) for item in value]))
    field = _VALUE_FIELDS.get(type(value))
    return AnyValue(**{field: value}) if field else AnyValue(string_value=str(value))
