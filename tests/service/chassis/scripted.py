"""A subscription whose handler does what a test says, and what became of its events."""

import uuid
from collections import Counter
from collections.abc import Awaitable, Callable

from protomesh.ordering.v1.ordering_events_pb2 import OrderCancelled

from chassis.data import Database, UnitOfWork
from chassis.events import Broker, Consumer, Envelope, Policy
from tests.patience import eventually
from tests.service.chassis.subscriber import letters
from tests.service.chassis.things import Thing, scalar

QUICK = Policy(attempts=2, backoff=(0.01,), acknowledge_within=2, drain_within=2)

Act = Callable[[OrderCancelled, UnitOfWork], Awaitable[None]]


class Scripted:
    """A subscription whose handler does what the test says, and notes what it was called with."""

    def __init__(self, database: Database, broker: Broker, act: Act, policy: Policy = QUICK) -> None:
        self.name = f"outages.{uuid.uuid4().hex[:8]}"
        self.calls: Counter[str] = Counter()
        self._act = act
        self.consumer = Consumer(
            database, broker, name=self.name, handlers={OrderCancelled: self._handle}, policy=policy
        )

    async def _handle(self, event: OrderCancelled, _: Envelope, work: UnitOfWork) -> None:
        self.calls[event.reason] += 1
        await self._act(event, work)
        work.add(Thing(name=event.reason))


async def handled(database: Database, *reasons: str) -> None:
    """Waits for the effects of these events, each of them once, and of no others."""

    async def all_there() -> bool:
        return bool(await scalar(database, "SELECT count(*) >= %s FROM things", len(reasons)))

    await eventually(all_there)
    async with database.connection() as connection:
        rows = await (await connection.execute("SELECT name FROM things")).fetchall()
    assert sorted(row[0] for row in rows) == sorted(reasons)


async def nothing_counted(database: Database, broker: Broker, subscriber: Scripted) -> None:
    """No attempt is on record, and nothing is dead."""
    assert await scalar(database, "SELECT coalesce(sum(attempts), 0) FROM inbox_failures") == 0
    assert await letters(broker, subscriber.name) == []
