"""One delivery of an event: what its headers say, how it is answered, and how often it is tried."""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from nats.aio.msg import Msg

REPLAY_HEADER = "mesh-replay-for"


@dataclass(frozen=True, slots=True)
class Policy:
    """How a consumer works and how long it tries. Durations are seconds.

    `backoff` holds the pauses after the first, second … failed attempt; the last one repeats.
    """

    attempts: int = 10
    backoff: tuple[float, ...] = (1, 5, 30, 120, 600)
    concurrency: int = 4
    acknowledge_within: float = 30
    handle_within: float = 60
    drain_within: float = 10

    def pause(self, attempts: int) -> float:
        """How long to wait after so many failed attempts."""
        return self.backoff[min(attempts, len(self.backoff)) - 1]


class Delivery:
    """A message from a stream, read as an event."""

    def __init__(self, message: Msg) -> None:
        self.message = message
        self.headers: Mapping[str, str] = message.headers or {}
        self.subject: str = message.subject
        self.data: bytes = message.data
        metadata = message.metadata
        self.stream: str = metadata.stream
        self.sequence: int = metadata.sequence.stream
        self.deliveries: int = metadata.num_delivered
        self.event_id = self._uuid("ce-id") or uuid.uuid5(
            uuid.NAMESPACE_URL, f"{self.stream}/{self.sequence}"
        )
        self.previous_id = self._uuid("mesh-previous-id")
        self.replay_for = self.headers.get(REPLAY_HEADER, "")
        self.aggregate_id = self.subject.rpartition(".")[2]

    def _uuid(self, header: str) -> uuid.UUID | None:
        try:
            return uuid.UUID(self.headers.get(header, ""))
        except ValueError:
            return None

    async def acknowledge(self) -> None:
        """It is handled; JetStream forgets it for this consumer."""
        await self.message.ack()

    async def later(self, delay: timedelta) -> None:
        """Has it delivered again after a while."""
        await self.message.nak(delay=max(delay.total_seconds(), 0.001))

    async def working(self) -> None:
        """Keeps JetStream from delivering it again while it is being handled."""
        await self.message.in_progress()

    async def give_up(self) -> None:
        """It will not be delivered again."""
        await self.message.term()
