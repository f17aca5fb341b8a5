"""Events of one aggregate are handled in order, across their types and over several workers."""

import asyncio
import json
import uuid
from collections import defaultdict
from contextlib import AsyncExitStack

import pytest
from protomesh.ordering.v1.ordering_events_pb2 import OrderCancelled, OrderPlaced

from chassis.core import uuid7
from chassis.data import Database
from chassis.events import Broker, streams
from tests.patience import eventually
from tests.service.chassis.conftest import running
from tests.service.chassis.subscriber import Journal, Subscriber, has_handled, publish
from tests.service.chassis.things import happened


@pytest.mark.usefixtures("relay")
async def test_events_of_one_aggregate_are_handled_in_order_by_several_workers(
    database: Database, subscriber: Subscriber
):
    aggregates = [str(uuid.uuid4()) for _ in range(5)]
    async with AsyncExitStack() as workers:
        for _ in range(3):
            await workers.enter_async_context(running(subscriber.consumer()))
        for n in range(10):
            await publish(database, *(happened(aggregate, f"{aggregate}/{n}") for aggregate in aggregates))
        await eventually(lambda: has_handled(subscriber, 50))
    handled = await subscriber.handled()
    for aggregate in aggregates:
        mine = [reason for reason in handled if reason.startswith(aggregate)]
        assert mine == [f"{aggregate}/{n}" for n in range(10)]


@pytest.mark.usefixtures("relay")
async def test_events_of_one_aggregate_are_handled_in_order_across_their_types(
    database: Database, broker: Broker
):
    journal = Journal(database, broker)
    journal.failing[OrderPlaced] = [RuntimeError("not now")]
    async with running(journal.consumer()), asyncio.timeout(15):
        await publish(database, OrderPlaced(order_id="one"))
        await publish(database, happened("one"))
        await journal.until(2)
    assert [type(event) for event, _ in journal.told] == [OrderPlaced, OrderCancelled]


@pytest.mark.usefixtures("relay")
async def test_order_across_types_holds_within_one_unit_of_work_and_over_several_workers(
    database: Database, broker: Broker
):
    journal = Journal(database, broker)
    journal.failing[OrderPlaced] = [RuntimeError("not now") for _ in range(3)]
    async with running(journal.consumer()), running(journal.consumer()), asyncio.timeout(15):
        for _ in range(5):
            order = str(uuid.uuid4())
            await publish(database, OrderPlaced(order_id=order), happened(order), OrderPlaced(order_id=order))
        await journal.until(15)
    handled = defaultdict(list)
    for event, envelope in journal.told:
        handled[envelope.aggregate_id].append(type(event))
    assert list(handled.values()) == [[OrderPlaced, OrderCancelled, OrderPlaced]] * 5


async def test_an_event_whose_predecessor_will_never_come_is_handled(
    database: Database, broker: Broker, subscriber: Subscriber
):
    await streams.declare(broker, "ORDERING")
    await broker.publish(
        "ordering.order.cancelled.v1.one",
        happened("one", "orphan").SerializeToString(),
        {
            "ce-id": str(uuid7()),
            "mesh-previous": json.dumps({OrderCancelled.DESCRIPTOR.full_name: str(uuid7())}),
        },
    )
    async with running(subscriber.consumer()):
        await eventually(lambda: has_handled(subscriber, 1))
