"""List cursors: opaque, signed positions in a list, which clients cannot forge."""

import base64
import datetime as dt
import decimal
import hashlib
import hmac
import json
import uuid
from collections.abc import Callable, Sequence
from typing import Any

from chassis.core.errors import InvalidArgument

_SIGNATURE_BYTES = 16
_LONGEST_CURSOR = 2048

# One-letter tags for the types of ordering columns that JSON lacks.
_TAGS: dict[type, str] = {dt.datetime: "t", dt.date: "d", uuid.UUID: "u", decimal.Decimal: "n"}
_PARSERS: dict[str, Callable[[str], Any]] = {
    "t": dt.datetime.fromisoformat,
    "d": dt.date.fromisoformat,
    "u": uuid.UUID,
    "n": decimal.Decimal,
}


def sign(values: Sequence[Any], scope: bytes, secret: bytes) -> str:
    """Returns a cursor behind the row with these ordering values, valid for one scope (a list and its filters)."""
    payload = json.dumps([_dump(value) for value in values], separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(_signature(payload, scope, secret) + payload).rstrip(b"=").decode()


def verify(cursor: str, scope: bytes, secret: bytes) -> list[Any]:
    """Returns the ordering values in a cursor. Raises InvalidArgument CURSOR_INVALID when it is not for this scope."""
    if len(cursor) > _LONGEST_CURSOR:
        raise _invalid()
    try:
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
    except ValueError:
        raise _invalid() from None
    signature, payload = raw[:_SIGNATURE_BYTES], raw[_SIGNATURE_BYTES:]
    if not hmac.compare_digest(signature, _signature(payload, scope, secret)):
        raise _invalid()
    return [_load(value) for value in json.loads(payload)]


def _signature(payload: bytes, scope: bytes, secret: bytes) -> bytes:
    return hmac.digest(secret, hashlib.sha256(scope).digest() + payload, "sha256")[:_SIGNATURE_BYTES]


def _dump(value: Any) -> Any:
    tag = _TAGS.get(type(value))
    return value if tag is None else {tag: str(value)}


def _load(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    [(tag, text)] = value.items()
    return _PARSERS[tag](text)


def _invalid() -> InvalidArgument:
    return InvalidArgument(
        "CURSOR_INVALID",
        "The cursor is damaged, or belongs to another list.",
        violations=[("cursor", "is not valid")],
    )
