"""What is published of an event: the contract says which fields of a resource events leave out."""

import functools
from collections.abc import Iterator
from typing import TypeVar

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from protomesh.options.v1 import options_pb2

Event = TypeVar("Event", bound=Message)


def published(event: Event) -> Event:
    """The event without personal data and without fields that change separately from their resource, such as stock.

    The event itself is not changed.
    """
    if not _tells_too_much(event.DESCRIPTOR):
        return event
    copy = type(event)()
    copy.CopyFrom(event)
    _leave_out(copy)
    return copy


def untold(field: FieldDescriptor) -> bool:
    """Whether events leave a field out."""
    options = field.GetOptions().Extensions
    return bool(options[options_pb2.personal_data] or options[options_pb2.unversioned])


@functools.cache
def _tells_too_much(message: Descriptor) -> bool:
    return any(untold(field) for part in _parts(message, set()) for field in part.fields)


def _parts(message: Descriptor, seen: set[str]) -> Iterator[Descriptor]:
    if message.full_name not in seen:
        seen.add(message.full_name)
        yield message
        for field in message.fields:
            if field.message_type is not None:
                yield from _parts(field.message_type, seen)


@functools.cache
def _untold(message: Descriptor) -> tuple[tuple[str, ...], tuple[FieldDescriptor, ...]]:
    """The names of the fields that are left out, and the fields whose messages contain such fields."""
    left_out = [field for field in message.fields if untold(field)]
    within = [
        field
        for field in message.fields
        if field not in left_out and field.message_type is not None and _tells_too_much(field.message_type)
    ]
    return tuple(field.name for field in left_out), tuple(within)


def _leave_out(message: Message) -> None:
    left_out, within = _untold(message.DESCRIPTOR)
    for name in left_out:
        message.ClearField(name)
    for field in within:
        for part in _messages(field, message):
            _leave_out(part)


def _messages(field: FieldDescriptor, message: Message) -> Iterator[Message]:
    value = getattr(message, field.name)
    if not field.is_repeated:
        if message.HasField(field.name):
            yield value
    elif field.message_type is not None and field.message_type.GetOptions().map_entry:
        yield from (value[key] for key in value)
    else:
        yield from value
