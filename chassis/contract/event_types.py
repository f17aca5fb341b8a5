"""Event types, read from the contracts: which messages are facts, where they are published, what they are about."""

import functools
from dataclasses import dataclass
from typing import Any

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from protomesh.options.v1 import options_pb2

from chassis.contract import registry

DEAD_LETTERS = "DEAD_LETTERS"
DEAD_SUBJECT = "dead"
EVERY_SERVICE = "*"

# Characters with a meaning in a NATS subject.
_SUBJECT_SYNTAX = frozenset(".*> \t\r\n")


@dataclass(frozen=True, slots=True)
class EventType:
    """One kind of fact: its subject without the aggregate's token, stream, aggregate's id field and subscribers."""

    name: str
    subject: str
    stream: str
    aggregate_id_field: str
    message_class: type[Message]
    # Names of subscriptions, such as `catalog.release_stock`, or EVERY_SERVICE.
    subscribers: frozenset[str] = frozenset()

    @property
    def filter(self) -> str:
        """The subjects of all events of this type."""
        return f"{self.subject}.*"

    @property
    def aggregate_type(self) -> str:
        """The subject up to its verb, such as `ordering.order`."""
        return ".".join(self.subject.split(".")[:2])

    def aggregate_id(self, event: Message) -> str:
        """The id of the aggregate. Raises ValueError when it is empty or cannot be a token of a subject."""
        value = str(getattr(event, self.aggregate_id_field))
        if not value or _SUBJECT_SYNTAX.intersection(value):
            raise ValueError(f"{self.name}.{self.aggregate_id_field} does not name an aggregate: {value!r}")
        return value

    def subject_of(self, aggregate_id: str) -> str:
        """The subject of the events about one aggregate."""
        return f"{self.subject}.{aggregate_id}"


_known: dict[type[Message], EventType] = {}


def event_type(message_class: type[Message]) -> EventType:
    """The event type of a message class. Raises TypeError when its contract has no `event` option."""
    found = _known.get(message_class) or _of_descriptor(message_class.DESCRIPTOR)
    if found is None:
        raise TypeError(f"{message_class.DESCRIPTOR.full_name} has no (protomesh.options.v1.event) option.")
    _known[message_class] = found
    return found


@functools.cache
def all_event_types() -> dict[str, EventType]:
    """Every event of the platform, by the message's full name."""
    types = (_of_descriptor(message) for file in registry.files() for message in _messages(file))
    return {kind.name: kind for kind in types if kind is not None}


def stream_subjects(stream: str) -> str:
    """The subjects that a stream takes: `ORDERING` takes `ordering.>`."""
    return f"{DEAD_SUBJECT}.>" if stream == DEAD_LETTERS else f"{stream.lower()}.>"


def _messages(file: FileDescriptor) -> list[Any]:
    return list(file.message_types_by_name.values())


def _of_descriptor(message: Any) -> EventType | None:
    option = message.GetOptions().Extensions[options_pb2.event]
    if not option.subject:
        return None
    if not option.subject.startswith(f"{option.stream.lower()}."):
        raise TypeError(f"{message.full_name}: the subject must begin with the stream's name in lower case.")
    if option.aggregate_id_field not in message.fields_by_name:
        raise TypeError(
            f"{message.full_name} has no field {option.aggregate_id_field!r} to name its aggregate."
        )
    return EventType(
        message.full_name,
        option.subject,
        option.stream,
        option.aggregate_id_field,
        GetMessageClass(message),
        frozenset(option.subscribers),
    )
