"""The consumer: handles the events of a service's subscription, in order within each aggregate."""

import asyncio
import contextlib
import datetime as dt
import logging
from collections.abc import Mapping
from typing import Any

import nats.errors
import nats.js.errors
from google.protobuf.message import Message
from prometheus_client import Gauge

from chassis.contract.event_types import EventType, event_type
from chassis.core.tasks import checkpoint
from chassis.data.database import Database
from chassis.events.broker import Broker
from chassis.events.delivery import Policy
from chassis.events.inbox import Inbox
from chassis.events.lanes import Lanes
from chassis.events.processor import Processor
from chassis.events.subscription import Subscription
from chassis.events.transaction import Handle, Transactions

logger = logging.getLogger(__name__)

LAG = Gauge("consumer_lag_events", "Events that a consumer has not handled yet.", ["consumer"])

_MEASURE_SECONDS = 10.0


class Consumer:
    """One subscription of a service. All processes of the service share it; each event goes to one of them at a time.

    Events of one aggregate are handled in order, whatever their types: each names its predecessors and waits until
    they are handled or given up. An event that keeps failing is retried by `policy`, then moved to the dead letters. A
    handler may be called again for an event whose transaction was rolled back, so its effects belong in `work`.
    """

    def __init__(
        self,
        database: Database,
        broker: Broker,
        *,
        name: str,
        handlers: Mapping[type[Message], Handle],
        policy: Policy | None = None,
    ) -> None:
        """Raises TypeError for a message that is not an event."""
        self._broker = broker
        self._name = name
        self._policy = policy or Policy()
        types = {event_type(message): handle for message, handle in handlers.items()}
        self._subscriptions = {
            stream: Subscription(broker, stream, of_stream, name, self._policy.acknowledge_within)
            for stream, of_stream in _by_stream(types).items()
        }
        self._inbox = inbox = Inbox(database, name)
        by_name = {kind.name: handle for kind, handle in types.items()}
        self._processor = Processor(
            broker,
            name,
            inbox,
            Transactions(database, inbox, name, by_name),
            lambda delivery, missing: self._subscriptions[delivery.stream].is_coming(delivery, missing),
            self._policy,
        )
        # For each concurrent transaction, one batch in work and one that waits.
        self._lanes = Lanes(2 * self._policy.concurrency * self._policy.batch)

    async def run(self) -> None:
        """Handles events until cancelled; then takes no more, and returns once the current ones are done."""
        work = [self._handle_fresh() for _ in range(self._policy.concurrency)]
        work += [self._handle_again() for _ in range((self._policy.concurrency + 1) // 2)]
        working = [asyncio.create_task(each) for each in work]
        try:
            async with asyncio.TaskGroup() as tasks:
                for subscription in self._subscriptions.values():
                    tasks.create_task(self._take(subscription))
                tasks.create_task(self._keep_alive())
                tasks.create_task(self._measure())
        finally:
            await self._drain(working)

    async def _drain(self, working: list["asyncio.Task[None]"]) -> None:
        self._processor.draining = True
        self._lanes.end()
        _, late = await asyncio.wait(working, timeout=self._policy.drain_within)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
        if self._broker.connected:
            for delivery in self._lanes:
                await delivery.later(0)
            await self._broker.client.flush()  # the acknowledgements

    async def _take(self, subscription: Subscription) -> None:
        taken = subscription.deliveries(self._lanes.room, self._compare_ages)
        async with contextlib.aclosing(taken) as deliveries:
            async for delivery in deliveries:
                delivery.fresh = self._processor.is_fresh(delivery)
                self._lanes.put(delivery)

    async def _compare_ages(self, stream: str, made: dt.datetime) -> None:
        """Logs that a stream was lost. Nothing else is needed: deliveries start with the new stream's first event, the
        inbox knows which events were handled, and no event waits for one that the stream lacks.
        """
        if await self._inbox.handled_before(made):
            logger.warning(
                "The stream %s is newer than events that %s has handled: it was lost and created again.",
                stream,
                self._name,
            )

    async def _handle_fresh(self) -> None:
        while batch := await self._lanes.fresh(self._policy.batch):
            try:
                await self._processor.fresh(batch)
            finally:
                for delivery in batch:
                    self._lanes.done(delivery)

    async def _handle_again(self) -> None:
        while delivery := await self._lanes.again():
            try:
                await self._processor.again(delivery)
            finally:
                self._lanes.done(delivery)

    async def _keep_alive(self) -> None:
        while True:
            checkpoint()
            await asyncio.sleep(self._policy.acknowledge_within / 3)
            for delivery in self._lanes:
                with contextlib.suppress(nats.errors.Error):
                    await delivery.working()

    async def _measure(self) -> None:
        gauge = LAG.labels(self._name)
        while True:
            checkpoint()
            with contextlib.suppress(nats.errors.Error, nats.js.errors.Error):
                gauge.set(sum([await each.lag() for each in self._subscriptions.values()]))
            await asyncio.sleep(_MEASURE_SECONDS)


def _by_stream(types: Mapping[EventType, Any]) -> dict[str, list[EventType]]:
    found: dict[str, list[EventType]] = {}
    for kind in types:
        found.setdefault(kind.stream, []).append(kind)
    return found
