"""Deliveries of events: what the headers say, how a delivery is acknowledged, and how often an event is tried."""

import datetime as dt
import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass

from nats.aio.msg import Msg

from chassis.contract.event_types import EventType

REPLAY_HEADER = "mesh-replay-for"
PREVIOUS_HEADER = "mesh-previous"
VERSION_HEADER = "mesh-aggregate-version"

# The type and the id, such as `ordering.order` and an order's id.
Aggregate = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Policy:
    """The settings of a consumer: how it works and how often it tries. Durations are in seconds.

    `backoff` holds the pauses after the first, second … failed attempt; the last one repeats. Up to `concurrency`
    transactions run at once, each with up to `batch` events of different aggregates.
    """

    attempts: int = 10
    backoff: tuple[float, ...] = (1, 5, 30, 120, 600)
    concurrency: int = 2
    batch: int = 50
    acknowledge_within: float = 30
    handle_within: float = 60
    drain_within: float = 10


@dataclass(frozen=True, slots=True)
class Envelope:
    """The context that a handler gets with an event, the same at every attempt.

    `aggregate_version` is the aggregate's version after the change, 0 when it has none: a projection can use it to
    ignore older states. `occurred_at` is when the change was made. `traceparent` names its trace (W3C).
    """

    event_id: uuid.UUID
    event_type: str
    aggregate_id: str
    aggregate_version: int
    occurred_at: dt.datetime
    traceparent: str


class Delivery:
    """A message from a stream, read as an event of a type."""

    __slots__ = (
        "aggregate",
        "data",
        "deliveries",
        "event_id",
        "fresh",
        "headers",
        "message",
        "replay_for",
        "sequence",
        "stream",
        "subject",
        "type",
    )

    def __init__(self, message: Msg, kind: EventType) -> None:
        self.message = message
        self.type = kind
        self.headers: Mapping[str, str] = message.headers or {}
        self.subject: str = message.subject
        self.data: bytes = message.data
        metadata = message.metadata
        self.stream: str = metadata.stream
        self.sequence: int = metadata.sequence.stream
        self.deliveries: int = metadata.num_delivered
        # Whether the event has no failed attempts; the consumer corrects this for deliveries that it put back itself.
        self.fresh = self.deliveries == 1
        self.event_id = _uuid(self.headers.get("ce-id", "")) or self._id_of_place()
        self.replay_for = self.headers.get(REPLAY_HEADER, "")
        self.aggregate: Aggregate = (kind.aggregate_type, self.subject.rpartition(".")[2])

    def _id_of_place(self) -> uuid.UUID:
        """Returns an id for a message without one; includes its time, since a rebuilt stream counts from 1 again."""
        stored_at = self.message.metadata.timestamp.isoformat()
        return uuid.uuid5(uuid.NAMESPACE_URL, f"{self.stream}/{self.sequence}/{stored_at}")

    @property
    def aggregate_id(self) -> str:
        """The id of the aggregate that the event is about."""
        return self.aggregate[1]

    def envelope(self) -> Envelope:
        """Returns the context for the handler."""
        return Envelope(
            event_id=self.event_id,
            event_type=self.type.name,
            aggregate_id=self.aggregate_id,
            aggregate_version=int(self.headers.get(VERSION_HEADER, "0")),
            occurred_at=self._occurred_at(),
            traceparent=self.headers.get("traceparent", ""),
        )

    def _occurred_at(self) -> dt.datetime:
        try:
            return dt.datetime.fromisoformat(self.headers["ce-time"])
        except (KeyError, ValueError):
            return self.message.metadata.timestamp

    def previous(self) -> dict[str, uuid.UUID]:
        """Returns the last event of each type before this one about its aggregate, by the type's name."""
        found = json.loads(self.headers.get(PREVIOUS_HEADER, "{}"))
        return {kind: uuid.UUID(event_id) for kind, event_id in found.items()}

    async def acknowledge(self) -> None:
        """Reports the event as handled; JetStream does not deliver it to this consumer again."""
        await self.message.ack()

    async def later(self, seconds: float) -> None:
        """Requests delivery again after a number of seconds."""
        await self.message.nak(delay=max(seconds, 0.001))

    async def working(self) -> None:
        """Keeps JetStream from delivering the event again while it is being handled."""
        await self.message.in_progress()

    async def give_up(self) -> None:
        """Reports the event as given up; JetStream does not deliver it again."""
        await self.message.term()


def _uuid(text: str) -> uuid.UUID | None:
    try:
        return uuid.UUID(text)
    except ValueError:
        return None
