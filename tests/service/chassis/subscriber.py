"""Subscriptions that tests watch: what they handled, and how they fail when they are told to."""

import asyncio
import uuid
from collections import defaultdict

from google.protobuf.message import Message
from protomesh.ordering.v1.ordering_events_pb2 import OrderCancelled, OrderPlaced

from chassis.data import Database, UnitOfWork
from chassis.events import Broker, Consumer, Envelope, Policy, dead_letters
from tests.service.chassis.things import Thing, scalar

QUICK = Policy(attempts=3, backoff=(0.05, 0.1), acknowledge_within=2, drain_within=2)

UNPUBLISHED = "SELECT count(*) FROM outbox WHERE published_at IS NULL"


class Subscriber:
    """A service's reaction: it keeps what it handled in its database, and can be told to fail."""

    def __init__(self, database: Database, broker: Broker, name: str) -> None:
        self.database, self.broker, self.name = database, broker, name
        self.attempts: dict[str, int] = defaultdict(int)
        self.broken: set[str] = set()
        self.changed = asyncio.Condition()

    async def handle(self, event: OrderCancelled, _: Envelope, work: UnitOfWork) -> None:
        self.attempts[event.reason] += 1
        work.add(Thing(name=event.reason))
        await work.flush()
        if event.reason in self.broken:
            raise RuntimeError(f"cannot handle {event.reason}\nat all")

    def consumer(self, policy: Policy = QUICK) -> Consumer:
        return Consumer(
            self.database,
            self.broker,
            name=self.name,
            handlers={OrderCancelled: self.handle},
            policy=policy,
        )

    async def handled(self) -> list[str]:
        """The reasons of the events whose effects are committed, in that order."""
        async with self.database.connection() as connection:
            rows = await (await connection.execute("SELECT name FROM things ORDER BY created_at")).fetchall()
        return [row[0] for row in rows]


async def publish(database: Database, *events: Message) -> None:
    async with database.unit_of_work() as work:
        for event in events:
            work.publish(event, version=1)


async def all_sent(database: Database) -> bool:
    return not await scalar(database, UNPUBLISHED)


async def is_buried(broker: Broker, consumer: str) -> bool:
    """Whether a consumer has given an event up."""
    return bool(await letters(broker, consumer))


async def letters(broker: Broker, consumer: str) -> list[dead_letters.DeadLetter]:
    return [letter async for letter in dead_letters.listed(broker, consumer)]


async def has_handled(subscriber: Subscriber, count: int) -> bool:
    return len(await subscriber.handled()) >= count


class Journal:
    """A subscription to several types, which notes what it is told and can be told to fail."""

    def __init__(self, database: Database, broker: Broker) -> None:
        self.told: list[tuple[Message, Envelope]] = []
        self.failing: dict[type[Message], list[Exception]] = {}
        self.arrived = asyncio.Event()
        self.database, self.broker, self.name = database, broker, f"journal.{uuid.uuid4().hex[:8]}"

    def consumer(self) -> Consumer:
        handlers = {OrderPlaced: self.handle, OrderCancelled: self.handle}
        return Consumer(self.database, self.broker, name=self.name, handlers=handlers, policy=QUICK)

    async def handle(self, event: Message, envelope: Envelope, work: UnitOfWork) -> None:
        if errors := self.failing.get(type(event)):
            raise errors.pop(0)
        self.told.append((event, envelope))
        self.arrived.set()

    async def until(self, count: int) -> None:
        """Waits until so many events were handled."""
        while len(self.told) < count:
            self.arrived.clear()
            await self.arrived.wait()
