"""Live: wakes the watchers of an aggregate, in this process, as soon as an event about it is published.

NATS sends each message that a stream takes to plain subscribers too, so every process of a service receives every
change, and no transaction has to notify the watchers.
"""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator

import nats.errors
from google.protobuf.message import Message
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from chassis.contract.event_types import event_type
from chassis.core.tasks import wait_up_to
from chassis.events.broker import Broker

# A message that NATS sends while the connection is down is lost, so watchers also look by themselves this often.
LOOK_SECONDS = 5.0


class Live:
    """The watchers of a process, by the id of the aggregate that each one watches."""

    def __init__(self, *events: type[Message]) -> None:
        """`events` are the messages that describe a change. Raises TypeError for a message that is not an event."""
        self._subjects = [event_type(message).filter for message in events]
        self._watchers: defaultdict[str, set[asyncio.Event]] = defaultdict(set)

    async def follow(self, broker: Broker) -> None:
        """Wakes watchers until cancelled. Its subscriptions survive lost connections."""
        await broker.ready()
        async with contextlib.AsyncExitStack() as stack:
            for subject in self._subjects:
                subscription = await broker.client.subscribe(subject, cb=self._wake)
                stack.push_async_callback(_end, subscription)
            await asyncio.Event().wait()

    async def _wake(self, message: Msg) -> None:
        for changed in self._watchers.get(message.subject.rpartition(".")[2], ()):
            changed.set()

    async def changes(self, aggregate_id: str, remaining: Callable[[], float]) -> AsyncIterator[None]:
        """Yields immediately, then whenever the aggregate may have changed, while `remaining()` seconds are left."""
        with self._watching(aggregate_id) as changed:
            while (left := remaining()) > 0:
                changed.clear()
                yield
                await wait_up_to(changed, min(left, LOOK_SECONDS))

    @contextlib.contextmanager
    def _watching(self, aggregate_id: str) -> Iterator[asyncio.Event]:
        changed = asyncio.Event()
        self._watchers[aggregate_id].add(changed)
        try:
            yield changed
        finally:
            self._watchers[aggregate_id].discard(changed)
            if not self._watchers[aggregate_id]:
                del self._watchers[aggregate_id]


async def _end(subscription: Subscription) -> None:
    with contextlib.suppress(nats.errors.Error):
        await subscription.unsubscribe()
