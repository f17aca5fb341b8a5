"""What of an event is published: its contract says which fields of a resource no event tells."""

import functools
from collections.abc import Iterator
from typing import TypeVar

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from protomesh.options.v1 import options_pb2

from chassis.contract.descriptors import reachable

Event = TypeVar("Event", bound=Message)


def published(event: Event) -> Event:
    """The event without personal data, and without what changes apart from its resource, such as stock.

    The event itself is left as it is.
    """
    if not _tells_too_much(event.DESCRIPTOR):
        return event
    copy = type(event)()
    copy.CopyFrom(event)
    _leave_out(copy)
    return copy


def untold(field: FieldDescriptor) -> bool:
    """Whether no event tells a field."""
    options = field.GetOptions().Extensions
    return bool(options[options_pb2.personal_data] or options[options_pb2.unversioned])


@functools.cache
def _tells_too_much(message: Descriptor) -> bool:
    return any(untold(field) for part in reachable(message) for field in part.fields)


def _leave_out(message: Message) -> None:
    for field, value in message.ListFields():
        if untold(field):
            message.ClearField(field.name)
        elif field.message_type is not None and _tells_too_much(field.message_type):
            for part in _messages(field, value):
                _leave_out(part)


def _messages(field: FieldDescriptor, value: object) -> Iterator[Message]:
    if not field.is_repeated:
        yield value  # type: ignore[misc]
    elif field.message_type is not None and field.message_type.GetOptions().map_entry:
        yield from (value[key] for key in value)  # type: ignore[attr-defined, index]
    else:
        yield from value  # type: ignore[misc]
