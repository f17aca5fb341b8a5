"""Streams: each is declared by the service that owns it; an existing one keeps the settings of its operator."""

from datetime import timedelta

import nats.js.errors
from nats.js.api import DiscardPolicy, StorageType, StreamConfig

from chassis.contract.event_types import DEAD_LETTERS, all_event_types, stream_subjects
from chassis.events.broker import Broker

DUPLICATE_WINDOW = timedelta(minutes=2)
# Less than an inbox remembers, so that no event that a stream can still deliver is handled twice.
EVENTS_KEPT = timedelta(days=14)
DEAD_LETTERS_KEPT = timedelta(days=90)


def owned_by(service: str) -> str | None:
    """Returns the stream of a service's own events, which has its name; None when it publishes none."""
    name = service.upper()
    return name if any(kind.stream == name for kind in all_event_types().values()) else None


async def exists(broker: Broker, name: str) -> bool:
    """Whether there is a stream with this name. Raises the errors of NATS."""
    try:
        await (await broker.ready()).stream_info(name)
    except nats.js.errors.NotFoundError:
        return False
    return True


async def declare(broker: Broker, name: str) -> bool:
    """Creates a stream unless it exists; returns whether it was created. Raises the errors of NATS.

    An existing stream keeps its settings, whatever they are: replicas and limits are up to the operator.
    """
    if await exists(broker, name):
        return False
    made = await (await broker.ready()).add_stream(_configuration(name, broker.replicas))
    # Another process may have been faster.
    return bool(made.did_create)


def _configuration(name: str, replicas: int) -> StreamConfig:
    kept = DEAD_LETTERS_KEPT if name == DEAD_LETTERS else EVENTS_KEPT
    return StreamConfig(
        name=name,
        subjects=[stream_subjects(name)],
        storage=StorageType.FILE,
        discard=DiscardPolicy.NEW,
        max_age=kept.total_seconds(),
        duplicate_window=DUPLICATE_WINDOW.total_seconds(),
        num_replicas=replicas,
    )
