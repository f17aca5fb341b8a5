"""Logs: one JSON object per line, with its trace id and without secrets or personal data."""

import datetime
import functools
import json
import logging
import re
import sys
from collections.abc import Mapping
from typing import Any

from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from opentelemetry import trace
from protomesh.options.v1 import options_pb2

REDACTED = "[redacted]"

# The fields of every record; any other field was passed as `extra`.
_RECORD_FIELDS = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_SECRET_NAMES = re.compile(
    r"password|passwd|secret|token|authorization|cookie|api_?key|private_?key", re.IGNORECASE
)
_SECRET_TEXT = re.compile(
    r"(?P<scheme>\b[a-z][a-z0-9+.-]*://[^\s:/@]*:)[^\s@/]+(?=@)"  # the password of a URL
    r"|\beyJ[\w-]+\.[\w-]+\.[\w-]+"  # a JWT
    r"|(?P<bearer>\bbearer\s+)[\w.~+/=-]+"
    # The row that a PostgreSQL error quotes, which spans several lines when its values do.
    r"|(?P<detail>^DETAIL:\s+)(?s:.+?)(?=\n\[SQL: |\n\nThe above |\n\nDuring |\Z)",
    re.IGNORECASE | re.MULTILINE,
)


def set_up(service: str, level: str) -> None:
    """Makes every logger of the process write JSON lines to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(service))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # Verbose third-party logs help only those who debug that library.
    for name in ("grpc", "nats", "httpx", "asyncio"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("grpc._cython.cygrpc").addFilter(_not_about_bytes)


def _not_about_bytes(record: logging.LogRecord) -> bool:
    """Drops gRPC's traceback for a header that is not UTF-8: any client could fill the log."""
    return not str(record.msg).startswith("Invalid encoding on")


class JsonFormatter(logging.Formatter):
    """Formats a record as one line of JSON."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.datetime.fromtimestamp(record.created, datetime.UTC).isoformat(),
            "level": record.levelname.lower(),
            "service": self._service,
            "logger": record.name,
            "message": clean(_message_of(record)),
        }
        context = trace.get_current_span().get_span_context()
        if context.is_valid:
            line |= {"trace_id": f"{context.trace_id:032x}", "span_id": f"{context.span_id:016x}"}
        line |= {
            name: _clean(name, value) for name, value in vars(record).items() if name not in _RECORD_FIELDS
        }
        if record.exc_info:
            line["exception"] = clean(self.formatException(record.exc_info))
        return json.dumps(line, default=str, ensure_ascii=False)


def _message_of(record: logging.LogRecord) -> str:
    """The text with its arguments; protobuf messages are redacted before they become text."""
    if isinstance(record.args, tuple):
        record.args = tuple(redacted(arg) if isinstance(arg, Message) else arg for arg in record.args)
    return record.getMessage()


def _clean(name: str, value: Any) -> Any:
    if _SECRET_NAMES.search(name):
        return REDACTED
    if isinstance(value, Message):
        return redacted(value)
    if isinstance(value, Mapping):
        return {str(key): _clean(str(key), inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(name, inner) for inner in value]
    return clean(value) if isinstance(value, str) else value


def clean(text: str) -> str:
    """The text without passwords, tokens, and the rows that PostgreSQL errors quote."""
    return _SECRET_TEXT.sub(
        lambda found: (found["scheme"] or found["bearer"] or found["detail"] or "") + REDACTED,
        text,
    )


def redacted(message: Message) -> dict[str, Any]:
    """A message as JSON data, with its `personal_data` and `debug_redact` fields replaced."""
    data: dict[str, Any] = json_format.MessageToDict(message, preserving_proto_field_name=True)
    return _redact(data, message.DESCRIPTOR)


def _redact(data: dict[str, Any], descriptor: Any) -> dict[str, Any]:
    hidden, nested = _plan(descriptor)
    for name in hidden.intersection(data):
        data[name] = REDACTED
    for name, inner in nested.items():
        value = data.get(name)
        if isinstance(value, dict):
            data[name] = _redact(value, inner)
        elif isinstance(value, list):
            data[name] = [_redact(item, inner) for item in value]
    return data


@functools.cache
def _plan(descriptor: Any) -> tuple[frozenset[str], Mapping[str, Any]]:
    """The fields of a message that are hidden, and those that hold nested messages."""
    hidden = frozenset(field.name for field in descriptor.fields if _is_hidden(field))
    nested = {
        field.name: field.message_type
        for field in descriptor.fields
        if field.message_type is not None
        # Well-known types and maps have their own JSON form.
        and not field.message_type.full_name.startswith("google.protobuf.")
        and not field.message_type.GetOptions().map_entry
        and field.name not in hidden
    }
    return hidden, nested


def _is_hidden(field: FieldDescriptor) -> bool:
    options = field.GetOptions()
    return bool(
        options.debug_redact
        or options.Extensions[options_pb2.personal_data]
        or (_SECRET_NAMES.search(field.name) and field.type == FieldDescriptor.TYPE_STRING)
    )
