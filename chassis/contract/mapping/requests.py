"""From a request to values by name: all fields, or only those that were sent."""

from collections.abc import Iterator
from datetime import UTC
from typing import Any

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from protomesh.type.v1.money_pb2 import Money


def values(message: Message) -> dict[str, Any]:
    """All values of a message by field: an enum as the name of its value, a Timestamp as a moment in UTC, Money as
    `<field>_minor` and `currency_code`. Unspecified enums and optional fields that were not sent are left out. Other
    nested messages are returned as they are.
    """
    return {
        name: value
        for field in message.DESCRIPTOR.fields
        if not field.has_presence or message.HasField(field.name)
        for name, value in _read(field, getattr(message, field.name))
    }


def sent(message: Message) -> dict[str, Any]:
    """What a partial update changes, in the form of `values`: optional fields that were sent, and non-empty lists."""
    return {
        name: value
        for field, given in message.ListFields()
        if field.has_presence or field.is_repeated
        for name, value in _read(field, given)
    }


def _read(field: Any, given: Any) -> Iterator[tuple[str, Any]]:
    if field.is_repeated:
        yield field.name, list(given)
    elif field.enum_type is not None:
        if given:
            yield field.name, field.enum_type.values_by_number[given].name
    elif field.message_type is Timestamp.DESCRIPTOR:
        yield field.name, given.ToDatetime(UTC)
    elif field.message_type is Money.DESCRIPTOR:
        yield f"{field.name}_minor", given.amount_minor
        yield "currency_code", given.currency_code
    else:
        yield field.name, given
