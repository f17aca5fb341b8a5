"""A service with a database and a broker: its events go round, whichever processes it runs in."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from prometheus_client import REGISTRY
from protomesh.ordering.v1.ordering_events_pb2 import OrderCancelled

from chassis.core import Settings, uuid7
from chassis.data import UnitOfWork
from chassis.events import Broker, Envelope
from chassis.service import Service
from tests.service.chassis.things import happened


@asynccontextmanager
async def started(service: Service) -> AsyncIterator[None]:
    """The service, from when it serves until it has drained."""
    stop, served = asyncio.Event(), asyncio.Event()
    task = asyncio.create_task(service.run(stop, lambda _: served.set()))
    try:
        await asyncio.wait_for(served.wait(), 20)
        yield
    finally:
        stop.set()
        await task


async def write(service: Service, order: str) -> None:
    async with service.database.unit_of_work() as work:
        work.publish(happened(order), version=1)


async def test_a_scrape_tells_of_the_connections_in_use(migrated_url: str) -> None:
    service = Service(
        Settings(service="scraped", port=0, database_url=migrated_url, drain_wait_seconds=0, role="server")
    )
    database = service.database

    def told(name: str, **labels: str) -> float | None:
        labels |= {"database": "scraped", "bulkhead": "calls"}
        return REGISTRY.get_sample_value(f"database_pool_{name}", labels)

    async with started(service):
        async with database.connection("calls"):
            assert told("connections", state="used") == 1
        assert told("connections", state="used") == 0
        assert told("connections", state="idle") == database.bulkheads.pools["calls"].idle >= 1
        assert told("waiting") == 0


async def test_what_one_process_of_a_service_writes_another_handles_and_watchers_see(
    migrated_url: str, nats_url: str, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The relay, which runs in the worker, is told by the server, and does not find out by itself.
    monkeypatch.setattr("chassis.events.relay.POLL_SECONDS", 60.0)
    handled: asyncio.Queue[str] = asyncio.Queue()

    async def handle(event: OrderCancelled, _: Envelope, work: UnitOfWork) -> None:
        handled.put_nowait(event.order_id)

    def process(role: Any) -> Service:
        service = Service(
            Settings(
                service="ordering",
                role=role,
                port=0,
                database_url=migrated_url,
                nats_url=nats_url,
                drain_wait_seconds=0,
            )
        )
        service.subscribe("catalog.release_stock", {OrderCancelled: handle})
        return service

    server, worker, order = process("server"), process("worker"), str(uuid7())
    changes = server.live(OrderCancelled).changes(order, lambda: 60.0)
    async with AsyncExitStack() as stack:
        for service in (worker, server):
            await stack.enter_async_context(started(service))
        await anext(changes)  # at once
        changed = asyncio.ensure_future(anext(changes))
        async with asyncio.timeout(20):
            first = asyncio.ensure_future(handled.get())
            while not first.done():  # what is there when the relay begins, it finds by itself
                await write(server, str(uuid7()))
                await asyncio.wait((first,), timeout=0.5)
            await write(server, order)
            while await handled.get() != order:
                pass
        await asyncio.wait_for(changed, 4)  # sooner than a watcher looks by itself
