"""The consumer: a durable subscription, whose events are each handled in one transaction with their inbox row."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import nats.errors
import nats.js.errors
from google.protobuf.message import DecodeError, Message
from opentelemetry.trace import SpanKind
from prometheus_client import Counter, Gauge

from chassis.contract.event_types import event_type
from chassis.core.tasks import checkpoint
from chassis.data.database import Database
from chassis.data.unit_of_work import UnitOfWork
from chassis.events import dead_letters
from chassis.events.broker import Broker
from chassis.events.delivery import Delivery, Policy
from chassis.events.inbox import Inbox
from chassis.events.subscription import Subscription
from chassis.observe import logs, tracing

logger = logging.getLogger(__name__)

Handle = Callable[[Any, UnitOfWork], Awaitable[None]]

LAG = Gauge("consumer_lag_events", "Events that a consumer has not handled.", ["consumer"])
HANDLED = Counter("consumer_events", "Deliveries by how they ended.", ["consumer", "outcome"])

_PAUSE_SECONDS = 1.0
_TAKEN_PER_SLOT = 4
_MEASURE_SECONDS = 10.0
# Waiting for an earlier event: the pause doubles from delivery to delivery.
_FIRST_WAIT_SECONDS, _LONGEST_WAIT_SECONDS = 0.05, 5.0
_WAITS_BEFORE_LOOKING = 3
_PROCESS_ENDED = "The process ended while it handled the event."


class Consumer:
    """One subscription of a service. All its processes share it; each event goes to one of them at a time.

    Events of one aggregate are handled in order: each names its predecessor, and waits until that is handled or
    given up. An event that keeps failing is tried by `policy`, then moves to the dead letters. The handler may be
    called again for an event whose transaction was rolled back, so its effects belong into `work`.
    """

    def __init__(
        self,
        database: Database,
        broker: Broker,
        *,
        name: str,
        event_class: type[Message],
        handler: Handle,
        policy: Policy | None = None,
    ) -> None:
        self._database = database
        self._broker = broker
        self._name = name
        self._event_class = event_class
        self._type = event_type(event_class)
        self._handler = handler
        self._policy = policy or Policy()
        self._inbox = Inbox(database, name)
        self._subscription = Subscription(broker, self._type, name, self._policy.acknowledge_within)
        self._alone = asyncio.Lock()
        self._slots = asyncio.Semaphore(self._policy.concurrency)
        self._lanes: dict[str, asyncio.Task[None]] = {}
        self._open: set[Delivery] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._draining = False

    async def run(self) -> None:
        """Handles events until cancelled; then takes no more, and returns when those in hand are done."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._take())
                tasks.create_task(self._keep_alive())
                tasks.create_task(self._measure())
        finally:
            await self._drain()

    async def _drain(self) -> None:
        self._draining = True
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=self._policy.drain_within)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        if self._broker.connected:
            await self._broker.client.flush()  # the acknowledgements

    async def _take(self) -> None:
        async with contextlib.aclosing(self._subscription.deliveries(self._room)) as deliveries:
            async for delivery in deliveries:
                self._start(delivery)

    async def _room(self) -> int:
        """How many deliveries may be taken; waits until it is one at least. Some wait here for a free slot."""
        while (room := self._policy.concurrency * _TAKEN_PER_SLOT - len(self._open)) <= 0:
            await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        return room

    def _start(self, delivery: Delivery) -> None:
        before = self._lanes.get(delivery.aggregate_id)
        task = asyncio.create_task(self._deliver(delivery, before))
        self._lanes[delivery.aggregate_id] = task
        self._open.add(delivery)
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._finished(done, delivery))

    def _finished(self, task: asyncio.Task[None], delivery: Delivery) -> None:
        self._tasks.discard(task)
        self._open.discard(delivery)
        if self._lanes.get(delivery.aggregate_id) is task:
            del self._lanes[delivery.aggregate_id]

    async def _keep_alive(self) -> None:
        while True:
            checkpoint()
            await asyncio.sleep(self._policy.acknowledge_within / 3)
            for delivery in tuple(self._open):
                with contextlib.suppress(nats.errors.Error):
                    await delivery.working()

    async def _measure(self) -> None:
        gauge = LAG.labels(self._name)
        while True:
            checkpoint()
            with contextlib.suppress(nats.errors.Error, nats.js.errors.Error):
                gauge.set(await self._subscription.lag())
            await asyncio.sleep(_MEASURE_SECONDS)

    async def _deliver(self, delivery: Delivery, before: asyncio.Task[None] | None) -> None:
        """Handles one delivery, behind the one before it of the same aggregate, and answers it."""
        if before is not None:
            await asyncio.wait([before])
        try:
            outcome = await self._handle(delivery)
        except Exception as error:  # noqa: BLE001 (PostgreSQL or NATS is away; JetStream delivers it again)
            outcome = "interrupted"
            logger.warning("%s: %s comes again: %r", self._name, delivery.event_id, error)
            with contextlib.suppress(nats.errors.Error):
                await delivery.later(timedelta(seconds=_PAUSE_SECONDS))
        HANDLED.labels(self._name, outcome).inc()

    async def _handle(self, delivery: Delivery) -> str:
        if delivery.replay_for not in ("", self._name):
            await delivery.acknowledge()
            return "foreign"
        if delivery.deliveries > 1:
            return await self._handle_again(delivery)
        async with self._slots:
            # A first delivery costs no look at the failures: it has none.
            return await self._attempt(delivery, 1)

    async def _handle_again(self, delivery: Delivery) -> str:
        failure = await self._inbox.failure(delivery.event_id)
        attempts = failure.attempts if failure is not None else 0
        if failure is not None and attempts >= self._policy.attempts:
            return await self._bury(delivery, attempts, failure.error)
        if failure is not None and failure.seconds > 0:
            await delivery.later(timedelta(seconds=failure.seconds))
            return "early"
        if delivery.previous_id is not None and not await self._inbox.knows(delivery.previous_id):
            return await self._wait_for_turn(delivery)
        # It may be what ended the last process. Suspects are handled one at a time, so that each answers for itself.
        suspect = failure is None or failure.error == _PROCESS_ENDED
        async with self._alone if suspect else contextlib.nullcontext(), self._slots:
            # On record beforehand, so that an event that kills the process is given up one day as well.
            if not self._draining:
                await self._record(delivery, attempts + 1, _PROCESS_ENDED)
            return await self._attempt(delivery, attempts + 1)

    async def _attempt(self, delivery: Delivery, attempt: int) -> str:
        if self._draining:
            await delivery.later(timedelta())
            return "drained"
        try:
            outcome = await self._apply(delivery)
        except DecodeError:
            return await self._bury(delivery, attempt, f"The payload is no {self._type.name}.")
        except Exception as error:  # noqa: BLE001 (whatever the handler raises is an attempt that failed)
            return await self._failed(delivery, attempt, error)
        if outcome == "waiting":
            return await self._wait_for_turn(delivery)
        await delivery.acknowledge()
        return outcome

    async def _apply(self, delivery: Delivery) -> str:
        """The transaction: the inbox row and the handler's effects."""
        event = self._event_class.FromString(delivery.data)
        with tracing.span(
            f"process {self._type.name}",
            SpanKind.CONSUMER,
            self._attributes(delivery),
            parent=delivery.headers,
        ):
            async with asyncio.timeout(self._policy.handle_within), self._database.unit_of_work() as work:
                taken = await self._inbox.take(
                    work.session, delivery.event_id, delivery.previous_id, replayed=bool(delivery.replay_for)
                )
                if taken.new:
                    await self._handler(event, work)
                if taken.turn and delivery.deliveries > 1:
                    await self._inbox.recovered(work.session, delivery.event_id)
        if not taken.turn:
            return "waiting"
        return "handled" if taken.new else "duplicate"

    def _attributes(self, delivery: Delivery) -> dict[str, str]:
        return {
            "messaging.system": "nats",
            "messaging.destination.name": delivery.subject,
            "messaging.message.id": str(delivery.event_id),
            "messaging.consumer.group.name": self._name,
        }

    async def _failed(self, delivery: Delivery, attempt: int, error: Exception) -> str:
        text = logs.clean(f"{type(error).__name__}: {error}")
        logger.warning("%s failed at %s, attempt %d", self._name, delivery.event_id, attempt, exc_info=error)
        await self._record(delivery, attempt, text)
        if attempt >= self._policy.attempts:
            return await self._bury(delivery, attempt, text)
        await delivery.later(timedelta(seconds=self._policy.pause(attempt)))
        return "failed"

    async def _record(self, delivery: Delivery, attempt: int, text: str) -> None:
        pause = timedelta(seconds=self._policy.pause(attempt))
        await self._inbox.fail(delivery.event_id, delivery.aggregate_id, attempt, pause, text)

    async def _bury(self, delivery: Delivery, attempts: int, text: str) -> str:
        """Only when the dead letter is on disk is the event ended here: a crash in between makes two letters."""
        await dead_letters.bury(self._broker, delivery, self._name, attempts, text)
        await self._inbox.bury(delivery.event_id)
        await delivery.give_up()
        logger.error("%s gave up %s after %d attempts: %s", self._name, delivery.event_id, attempts, text)
        return "dead"

    async def _wait_for_turn(self, delivery: Delivery) -> str:
        """An earlier event of the aggregate fails, or is in another process's hands, or will never come."""
        seconds = await self._inbox.held_up(delivery.aggregate_id)
        if seconds is None:
            if (
                delivery.deliveries >= _WAITS_BEFORE_LOOKING
                and not await self._subscription.predecessor_is_coming(delivery)
            ):
                delivery.previous_id = None
                return await self._attempt(delivery, 1)
            seconds = min(_FIRST_WAIT_SECONDS * 2**delivery.deliveries, _LONGEST_WAIT_SECONDS)
        await delivery.later(timedelta(seconds=max(seconds, _FIRST_WAIT_SECONDS)))
        return "waiting"
