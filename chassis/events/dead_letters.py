"""Dead letters: events that a consumer gave up, kept until an operator replays or drops them."""

import uuid
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import nats.js.errors
from nats.js.api import RawStreamMsg

from chassis.contract.event_types import DEAD_LETTERS, DEAD_SUBJECT
from chassis.events import streams
from chassis.events.broker import Broker
from chassis.events.delivery import PREVIOUS_HEADER, REPLAY_HEADER, Delivery

# Headers of a dead letter that its event does not have.
_OWN = (
    "mesh-consumer",
    "mesh-stream",
    "mesh-subject",
    "mesh-sequence",
    "mesh-attempts",
    "mesh-error",
    "mesh-died-at",
)


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """An event that `consumer` gave up after `attempts`. `sequence` identifies the letter; `payload` is the message."""

    sequence: int
    consumer: str
    event_id: str
    event_type: str
    aggregate_id: str
    subject: str
    stream: str
    attempts: int
    error: str
    died_at: str
    payload: bytes
    headers: Mapping[str, str]


async def bury(broker: Broker, delivery: Delivery, consumer: str, attempts: int, error: str) -> None:
    """Adds an event to the dead letters; returns once it is on disk there."""
    headers = {
        **{name: value for name, value in delivery.headers.items() if name != REPLAY_HEADER},
        # Differs when a replay fails again, and when a stream that was lost counts from 1 again.
        "Nats-Msg-Id": f"{consumer}/{delivery.event_id}/{delivery.sequence}",
        "mesh-consumer": consumer,
        "mesh-stream": delivery.stream,
        "mesh-subject": delivery.subject,
        "mesh-sequence": str(delivery.sequence),
        "mesh-attempts": str(attempts),
        # A header is one line.
        "mesh-error": " ".join(error.split())[:500],
        "mesh-died-at": datetime.now(UTC).isoformat(),
    }
    subject = f"{DEAD_SUBJECT}.{consumer}"
    try:
        await broker.publish(subject, delivery.data, headers)
    except nats.js.errors.NoStreamResponseError:
        # The stream belongs to no service, so the first one that needs it creates it.
        await streams.declare(broker, DEAD_LETTERS)
        await broker.publish(subject, delivery.data, headers)


async def listed(broker: Broker, consumer: str = "", limit: int = 100) -> AsyncIterator[DeadLetter]:
    """Yields the oldest letters, of one consumer or of all."""
    subject = f"{DEAD_SUBJECT}.{consumer or '>'}"
    sequence = 1
    for _ in range(limit):
        found = await _next(broker, sequence, subject)
        if found is None:
            return
        yield found
        sequence = found.sequence + 1


async def show(broker: Broker, sequence: int) -> DeadLetter:
    """Returns one letter. Raises LookupError when there is none with this number."""
    jetstream = await broker.ready()
    try:
        return _letter(await jetstream.get_msg(DEAD_LETTERS, sequence))
    except nats.js.errors.NotFoundError:
        raise LookupError(f"There is no dead letter {sequence}.") from None


async def replay(broker: Broker, sequence: int) -> DeadLetter:
    """Sends an event to the consumer that gave it up, and removes the letter.

    The event goes to its old subject with its old event id. Other consumers recognize by a header that it is not for
    them (and know it from their inboxes anyway); the consumer that gave it up has it on record as dead and handles it.
    Raises LookupError when there is no such letter.
    """
    letter = await show(broker, sequence)
    kept = {name: value for name, value in letter.headers.items() if name not in (*_OWN, PREVIOUS_HEADER)}
    # Its place in the order has passed, and the broker must not treat it as a duplicate.
    headers = {**kept, "Nats-Msg-Id": f"replay/{uuid.uuid4()}", REPLAY_HEADER: letter.consumer}
    await broker.publish(letter.subject, letter.payload, headers)
    await drop(broker, sequence)
    return letter


async def drop(broker: Broker, sequence: int) -> None:
    """Removes a letter permanently. Raises LookupError when there is no such letter."""
    await show(broker, sequence)
    await (await broker.ready()).delete_msg(DEAD_LETTERS, sequence)


async def _next(broker: Broker, sequence: int, subject: str) -> DeadLetter | None:
    jetstream = await broker.ready()
    try:
        return _letter(await jetstream.get_msg(DEAD_LETTERS, sequence, subject, next=True))
    except nats.js.errors.NotFoundError:
        return None


def _letter(message: RawStreamMsg) -> DeadLetter:
    headers = message.headers or {}
    return DeadLetter(
        sequence=message.seq or 0,
        consumer=headers.get("mesh-consumer", ""),
        event_id=headers.get("ce-id", ""),
        event_type=headers.get("ce-type", ""),
        aggregate_id=headers.get("ce-subject", ""),
        subject=headers.get("mesh-subject", ""),
        stream=headers.get("mesh-stream", ""),
        attempts=int(headers.get("mesh-attempts", "0")),
        error=headers.get("mesh-error", ""),
        died_at=headers.get("mesh-died-at", ""),
        payload=message.data or b"",
        headers=headers,
    )
