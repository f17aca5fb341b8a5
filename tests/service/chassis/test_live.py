"""Watchers are woken by the events about what they watch, and by nothing else."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from protomesh.ordering.v1.ordering_events_pb2 import OrderCancelled

from chassis.core import uuid7
from chassis.data import Database
from chassis.events import Broker, Live, Relay
from tests.service.chassis.things import happened


class Watcher:
    """Counts how often a watch yields."""

    def __init__(self, live: Live, aggregate_id: str, seconds: float = 60.0) -> None:
        self.changes = live.changes(aggregate_id, lambda: seconds)

    async def next(self) -> None:
        await asyncio.wait_for(anext(self.changes), 4)  # sooner than a watcher looks by itself


@pytest.fixture
async def live(broker: Broker) -> AsyncIterator[Live]:
    live = Live(OrderCancelled)
    following = asyncio.create_task(live.follow(broker))
    await broker.ready()
    await broker.client.flush()
    yield live
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)


async def test_every_watcher_of_an_aggregate_wakes_when_its_event_is_published(
    database: Database, relay: Relay, live: Live
) -> None:
    order = str(uuid7())
    watchers = [Watcher(live, order), Watcher(live, order)]
    for watcher in watchers:
        await watcher.next()  # at once
    waiting = [asyncio.create_task(watcher.next()) for watcher in watchers]
    async with database.unit_of_work() as work:
        work.publish(happened(order), version=1)
    await asyncio.gather(*waiting)


async def test_an_event_about_another_aggregate_wakes_nobody(
    database: Database, relay: Relay, live: Live
) -> None:
    mine, other = str(uuid7()), str(uuid7())
    watcher, witness = Watcher(live, mine), Watcher(live, other)
    await watcher.next()
    await witness.next()
    waiting = asyncio.create_task(watcher.next())
    async with database.unit_of_work() as work:
        work.publish(happened(other), version=1)
    await witness.next()
    assert not waiting.done()
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)


async def test_a_watch_ends_when_its_time_is_up() -> None:
    left = iter((0.01, 0.0))
    live = Live(OrderCancelled)
    assert [change async for change in live.changes("order", lambda: next(left, 0.0))] == [None]
