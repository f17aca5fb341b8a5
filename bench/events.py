"""Events per second through outbox → JetStream → inbox, against JetStream alone with the same broker settings.

The peer publishes the same payloads with an acknowledgement for each, and takes and acknowledges them one by one: no
database, no order within an aggregate, no guarantee that an effect happens once. The difference to its rate is the
price of those guarantees. Writers, relay and consumer share one process, as they do in a service.
"""

import asyncio
import contextlib
import contextvars
import tempfile
import time
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import nats
import psycopg
from nats.js.api import StorageType, StreamConfig
from protomesh.ordering.v1.ordering_events_pb2 import OrderPlaced
from protomesh.type.v1.money_pb2 import Money
from sqlalchemy import text

from bench.goals import EVENTS as EVENTS_GOAL
from bench.report import Figure, Report
from chassis.data import Database, Prepared, UnitOfWork, bulkheads, upgrade
from chassis.events import Broker, Consumer, Envelope, Relay, streams
from tests import parts

EVENTS = 6000
WRITERS = 8
# On a busy machine, the events that are handled by then count.
SECONDS_AT_MOST = 30.0
# A handler's least effect: one prepared statement, as hot handlers are written.
_EFFECT = Prepared(text("SELECT 1"))


async def measure(report: Report) -> None:
    """Sends the same number of events both ways."""
    with tempfile.TemporaryDirectory(prefix="mesh-bench-") as folder:
        async with (
            parts.running_postgres(Path(folder)) as postgres_url,
            parts.running_nats(Path(folder)) as nats_url,
        ):
            alone = await _alone(nats_url)
            through = await _through(postgres_url, nats_url)
            peer = report.add(Figure("events: JetStream alone", alone, "events/s"))
            report.add(Figure(EVENTS_GOAL, through, "events/s"), against={peer.name: through / alone})


def _event() -> OrderPlaced:
    total = Money(currency_code="GBP", amount_minor=1790)
    return OrderPlaced(order_id=str(uuid.uuid4()), buyer_id=str(uuid.uuid4()), total=total)


async def _alone(nats_url: str) -> float:
    client = await nats.connect(nats_url)
    try:
        jetstream = client.jetstream()
        await jetstream.add_stream(StreamConfig("BENCH", subjects=["bench.>"], storage=StorageType.FILE))
        subscription = await jetstream.pull_subscribe("bench.>", durable="bench")
        payloads = iter([_event().SerializeToString() for _ in range(EVENTS)])

        async def write() -> None:
            for payload in payloads:
                await jetstream.publish("bench.event", payload, headers={"Nats-Msg-Id": str(uuid.uuid4())})

        async def read() -> None:
            taken = 0
            while taken < EVENTS:
                for message in await subscription.fetch(100, timeout=10):
                    await message.ack()
                    taken += 1

        began = time.perf_counter()
        await asyncio.gather(read(), *(write() for _ in range(WRITERS)))
        return EVENTS / (time.perf_counter() - began)
    finally:
        await client.close()


async def _through(postgres_url: str, nats_url: str) -> float:
    async with _database(postgres_url) as database, Broker(nats_url) as broker:
        handled, done = 0, asyncio.Event()

        async def handle(event: Any, _: Envelope, work: UnitOfWork) -> None:
            nonlocal handled
            await work.run(_EFFECT)
            handled += 1
            if handled >= EVENTS:
                done.set()

        events = iter([_event() for _ in range(EVENTS)])

        async def write() -> None:
            for event in events:
                async with database.unit_of_work() as work:
                    work.publish(event, version=1)

        consumer = Consumer(database, broker, name="bench", handlers={OrderPlaced: handle})
        await streams.declare(broker, "ORDERING")
        async with _running(Relay(database, broker, "ordering").run, consumer.run):
            began = time.perf_counter()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SECONDS_AT_MOST):
                    await asyncio.gather(*(write() for _ in range(WRITERS)))
                    await done.wait()
            return handled / (time.perf_counter() - began)


@contextlib.asynccontextmanager
async def _database(postgres_url: str) -> AsyncIterator[Database]:
    async with await psycopg.AsyncConnection.connect(postgres_url, autocommit=True) as connection:
        await connection.execute("CREATE DATABASE bench")
    url = postgres_url.rsplit("/", 1)[0] + "/bench"
    # Ordering's tables hold the outbox and the inbox, like every service's.
    await asyncio.to_thread(upgrade, "ordering", url)
    async with Database(url, name="bench", pool_size=16) as database:
        yield database


@contextlib.asynccontextmanager
async def _running(*workers: Any) -> AsyncIterator[None]:
    # As in a service, background work has connections of its own.
    with_background = contextvars.copy_context()
    with_background.run(bulkheads.current.set, "background")
    tasks = [asyncio.create_task(worker(), context=with_background) for worker in workers]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
