"""Events while things break: nothing is lost, nothing takes effect twice."""

import asyncio
import os
import pathlib
import shutil
import signal
import sys
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import nats.errors
import pytest
from protomesh.ordering.v1.ordering_events_pb2 import OrderCancelled

from chassis.data import Database, UnitOfWork, migrations
from chassis.events import Broker, Consumer, Envelope, Policy, Relay, dead_letters, streams
from meshctl.core.ports import Ports
from meshctl.mesh.parts import nats as nats_part
from meshctl.mesh.parts import postgres
from meshctl.mesh.process import Process
from tests import parts
from tests.patience import eventually
from tests.service.chassis.conftest import running
from tests.service.chassis.things import MIGRATIONS, Thing, happened, scalar

EVENTS = 300
PATIENT = Policy(attempts=50, backoff=(0.1, 0.3), acknowledge_within=2)


class Stand:
    """A PostgreSQL and a NATS of their own, to be killed, and a service on them."""

    def __init__(self, postgres_: Process, nats_: Process, database: Database, broker: Broker) -> None:
        self.postgres, self.nats = postgres_, nats_
        self.database, self.broker = database, broker

    async def handle(self, event: OrderCancelled, _: Envelope, work: UnitOfWork) -> None:
        # No check whether it is there: a second effect would be a second row.
        work.add(Thing(name=event.order_id))

    def relay(self) -> Relay:
        return Relay(self.database, self.broker, "ordering")

    def consumer(self, name: str = "things.copy") -> Consumer:
        return Consumer(
            self.database,
            self.broker,
            name=name,
            handlers={OrderCancelled: self.handle},
            policy=PATIENT,
        )

    async def write(self, count: int) -> list[str]:
        """Publishes events as a client that repeats what failed would; answers the aggregates."""
        written = []
        for _ in range(count):
            order_id = str(uuid.uuid4())
            # Under the same id, so that a commit whose answer got lost is found again.
            await eventually(partial(self._write_one, order_id))
            written.append(order_id)
        return written

    async def _write_one(self, order_id: str) -> bool:
        try:
            if await scalar(self.database, "SELECT 1 FROM outbox WHERE aggregate_id = %s", order_id):
                return True
            async with self.database.unit_of_work() as work:
                work.publish(happened(order_id), version=1)
        except Exception:  # noqa: BLE001 (whatever a part that is down makes of it)
            return False
        return True

    async def all_sent(self) -> bool:
        return not await scalar(self.database, "SELECT count(*) FROM outbox WHERE published_at IS NULL")

    async def settled(self, written: list[str]) -> None:
        """Waits until as many effects are there as events; they must be these, each once."""

        async def all_there() -> list[str]:
            effects = await self._effects()
            return effects if len(effects) >= len(written) else []

        assert sorted(await eventually(all_there)) == sorted(written)

    async def _effects(self) -> list[str]:
        try:
            async with self.database.connection() as connection:
                rows = await (await connection.execute("SELECT name FROM things")).fetchall()
        except Exception:  # noqa: BLE001 (whatever a part that is down makes of it)
            return []
        return [row[0] for row in rows]


@pytest.fixture
async def stand(tmp_path: pathlib.Path) -> AsyncIterator[Stand]:
    ports = Ports()
    pg_port, nats_port = ports.take(), ports.take()
    program = await parts.postgres_program(tmp_path, pg_port, "password")
    url = postgres.url(pg_port, "password")
    async with (
        parts.running(program, tmp_path) as pg,
        parts.running(
            nats_part.program(tmp_path / "nats", nats_port, {"operator": "password"}, ports.take()), tmp_path
        ) as nats_,
    ):
        await asyncio.to_thread(migrations.upgrade, "things", url, MIGRATIONS)
        broker = Broker(nats_part.url(nats_port, "operator", "password"))
        async with Database(url) as database, broker:
            yield Stand(pg, nats_, database, broker)


def kill(process: Process) -> None:
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)


@pytest.mark.parametrize("victim", ["nats", "postgres"])
async def test_killing_a_part_in_the_middle_of_traffic_loses_and_doubles_nothing(stand: Stand, victim: str):
    async with (
        running(stand.relay()),
        running(stand.relay()),
        running(stand.consumer()),
        running(stand.consumer()),
    ):
        written = await stand.write(EVENTS // 3)
        kill(getattr(stand, victim))
        written += await stand.write(EVENTS // 3)
        kill(getattr(stand, victim)) if getattr(stand, victim).pid else None
        written += await stand.write(EVENTS // 3)
        await stand.settled(written)


async def test_a_jetstream_store_that_is_removed_is_rebuilt_and_nothing_is_lost_or_doubled(
    stand: Stand, tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
):
    async with running(stand.relay()):
        async with running(stand.consumer()):
            handled = await stand.write(20)
            await stand.settled(handled)
        unheard = await stand.write(8)
        await eventually(stand.all_sent)
        await stand.nats.stop()
        shutil.rmtree(tmp_path / "nats" / "jetstream")
        meanwhile = await stand.write(4)
        await stand.nats.start()
        # Nobody says so to the relay or the consumer.
        async with running(stand.consumer()):
            await stand.settled(handled + unheard + meanwhile)
            await eventually(stand.all_sent)
            later = await stand.write(2)
            await stand.settled(handled + unheard + meanwhile + later)
    info = await (await stand.broker.ready()).stream_info("ORDERING")
    assert info.state.messages == 34
    assert "The stream ORDERING was lost: 28 events are sent again." in caplog.text
    assert "The stream ORDERING is newer than events that things.copy has handled: it was lost" in caplog.text


async def test_nats_that_dies_between_taking_an_event_and_acknowledging_it_gets_it_again(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
):
    relay, publish = stand.relay(), stand.broker.publish_together

    async def stored_but_not_acknowledged(*arguments: Any) -> list[Exception | None]:
        await publish(*arguments)
        kill(stand.nats)
        return [nats.errors.TimeoutError()]

    monkeypatch.setattr(stand.broker, "publish_together", stored_but_not_acknowledged)
    [order_id] = await stand.write(1)
    await streams.declare(stand.broker, "ORDERING")
    with pytest.raises(nats.errors.TimeoutError):
        await relay.publish_batch()
    assert await scalar(stand.database, "SELECT count(*) FROM outbox WHERE published_at IS NULL") == 1
    monkeypatch.undo()
    async with running(relay), running(stand.consumer()):
        await stand.settled([order_id])
    info = await (await stand.broker.ready()).stream_info("ORDERING")
    assert info.state.messages == 1  # the message id made the second one a duplicate, across the restart


async def test_a_relay_that_dies_between_acknowledgement_and_mark_sends_the_event_again(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
):
    [order_id] = await stand.write(1)
    await streams.declare(stand.broker, "ORDERING")
    publish = stand.broker.publish_together

    async def then_die(*arguments: Any) -> None:
        await publish(*arguments)
        raise asyncio.CancelledError

    monkeypatch.setattr(stand.broker, "publish_together", then_die)
    dying = asyncio.create_task(stand.relay().publish_batch())
    await asyncio.wait([dying])
    assert dying.cancelled()
    monkeypatch.undo()
    assert await stand.relay().publish_batch() == 1
    async with running(stand.consumer()):
        await stand.settled([order_id])
    assert (await (await stand.broker.ready()).stream_info("ORDERING")).state.messages == 1


async def test_another_worker_takes_over_what_a_dead_one_had_in_hand(stand: Stand):
    taken = asyncio.Event()

    async def hang(_: OrderCancelled, __: Envelope, work: UnitOfWork) -> None:
        work.add(Thing(name="must be rolled back"))
        await work.flush()
        taken.set()
        await asyncio.Event().wait()

    dead = Consumer(
        stand.database,
        stand.broker,
        name="things.copy",
        handlers={OrderCancelled: hang},
        policy=Policy(acknowledge_within=1, drain_within=0),
    )
    dying = asyncio.create_task(dead.run())
    async with running(stand.relay()):
        written = await stand.write(1)
        await taken.wait()
        dying.cancel()
        await asyncio.wait([dying])
        # The same aggregate's next event must not overtake the one that nobody acknowledged.
        async with running(stand.consumer()):
            async with stand.database.unit_of_work() as work:
                work.publish(happened(written[0], "second"), version=1)
            await stand.settled([written[0], written[0]])


async def test_an_event_that_kills_its_process_is_given_up_as_well(
    migrated_url: str, database: Database, broker: Broker, nats_url: str
):
    name = f"deadly.{uuid.uuid4().hex[:8]}"
    async with database.unit_of_work() as work:
        work.publish(happened(reason="deadly"), version=1)
        work.publish(happened(reason="harmless"), version=1)
    async with running(Relay(database, broker, "ordering")):
        deaths = 0
        async with supervised(migrated_url, nats_url, name) as died:

            async def buried() -> bool:
                return bool([letter async for letter in dead_letters.listed(broker, name)])

            await eventually(buried)
            deaths = died()
    # The first delivery is not on record beforehand, so there is one more than the policy's three.
    assert deaths == 4
    assert await scalar(database, "SELECT name FROM things") == "harmless"


@asynccontextmanager
async def supervised(*arguments: str) -> AsyncIterator[Callable[[], int]]:
    """The deadly service, started again whenever it dies; gives how often it has."""
    deaths = 0

    async def keep() -> None:
        nonlocal deaths
        while True:
            child = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "tests.service.chassis.deadly", *arguments
            )
            try:
                deaths += await child.wait() == 7
            except asyncio.CancelledError:
                child.kill()
                await child.wait()
                raise

    task = asyncio.create_task(keep())
    try:
        yield lambda: deaths
    finally:
        task.cancel()
        await asyncio.wait([task])
