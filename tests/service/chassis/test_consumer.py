"""A consumer at work: it asks for events, and finishes or gives back what it has when it is drained."""

import asyncio
import uuid
from dataclasses import replace
from typing import Any

import pytest
from protomesh.ordering.v1.ordering_events_pb2 import OrderCancelled

from chassis.data import Database, UnitOfWork
from chassis.events import Broker, Consumer, Envelope, Policy, Relay
from tests.patience import eventually
from tests.service.chassis.conftest import running
from tests.service.chassis.subscriber import QUICK, Subscriber, publish
from tests.service.chassis.things import Thing, happened, scalar


async def test_a_drain_finishes_what_is_in_hand(database: Database, broker: Broker):
    started, go_on = asyncio.Event(), asyncio.Event()

    async def handle(event: Any, _: Envelope, work: UnitOfWork) -> None:
        started.set()
        await go_on.wait()
        work.add(Thing(name=event.reason))

    slow_name = f"slow.{uuid.uuid4().hex[:8]}"
    slow = Consumer(
        database,
        broker,
        name=slow_name,
        handlers={OrderCancelled: handle},
        policy=QUICK,
    )
    async with running(Relay(database, broker, "ordering")):
        await publish(database, happened(reason="in hand"))
        task = asyncio.create_task(slow.run())
        await started.wait()
        task.cancel()
        await asyncio.sleep(0)
        go_on.set()
        await asyncio.wait([task])
    assert await scalar(database, "SELECT name FROM things") == "in hand"
    info = await (await broker.ready()).consumer_info("ORDERING", slow_name.replace(".", "-"))
    assert info.num_ack_pending == 0


@pytest.mark.usefixtures("relay")
async def test_a_consumer_that_nothing_came_for_asks_again(
    database: Database, broker: Broker, subscriber: Subscriber, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("chassis.events.subscription._PULL_SECONDS", 0.2)
    monkeypatch.setattr("chassis.events.subscription._HEARTBEAT_SECONDS", 0.05)

    async def is_handled() -> bool:
        return await subscriber.handled() == ["at last"]

    pulls: asyncio.Queue[Any] = asyncio.Queue()
    await broker.client.subscribe("$JS.API.CONSUMER.MSG.NEXT.ORDERING.>", cb=pulls.put)
    await broker.client.flush()
    async with running(subscriber.consumer()):
        async with asyncio.timeout(10):
            for _ in range(5):
                await pulls.get()
        await publish(database, happened(reason="at last"))
        await eventually(is_handled)


@pytest.mark.usefixtures("relay")
async def test_a_drain_gives_back_what_it_has_not_begun(
    database: Database, broker: Broker, subscriber: Subscriber
):
    """So that another process has it at once, and not when the time to acknowledge it is up."""
    started = asyncio.Event()

    async def hang(event: Any, _: Envelope, work: UnitOfWork) -> None:
        started.set()
        await asyncio.Event().wait()

    async def both_are_delivered() -> bool:
        info = await (await broker.ready()).consumer_info("ORDERING", subscriber.name.replace(".", "-"))
        return info.num_ack_pending == 2

    policy = Policy(concurrency=1, batch=1, acknowledge_within=60, drain_within=0.1)
    stuck = Consumer(database, broker, name=subscriber.name, handlers={OrderCancelled: hang}, policy=policy)
    async with running(stuck):
        await publish(database, happened(reason="in hand"))
        await asyncio.wait_for(started.wait(), 15)
        await publish(database, happened(reason="behind it"))
        await eventually(both_are_delivered)
    async with running(subscriber.consumer(policy)):

        async def is_handled() -> bool:
            return "behind it" in await subscriber.handled()

        await eventually(is_handled)


@pytest.mark.usefixtures("relay")
async def test_a_drain_ends_at_whatever_moment_it_begins(database: Database, subscriber: Subscriber):
    for _ in range(20):
        # Of its own name each time, so that it starts with all events there are and is amid them when it is stopped.
        subscriber.name = f"things.{uuid.uuid4().hex[:8]}"
        before = sum(subscriber.attempts.values())
        # Far longer than a drain takes that does not wait until its time is up.
        task = asyncio.create_task(subscriber.consumer(replace(QUICK, drain_within=60)).run())
        await publish(database, happened(reason="x"))
        async with asyncio.timeout(15):
            while sum(subscriber.attempts.values()) == before:  # noqa: ASYNC110 (any moment will do)
                await asyncio.sleep(0)
        task.cancel()
        done, _ = await asyncio.wait([task], timeout=5)
        assert done
