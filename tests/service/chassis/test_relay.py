"""The relay and its streams: every event is sent once and in order, and again when a stream is lost."""

import asyncio
import uuid
from contextlib import AsyncExitStack
from typing import Any

import pytest
from nats.js.errors import NotFoundError
from protomesh.ordering.v1.ordering_events_pb2 import OrderCancelled

from chassis.data import Database
from chassis.events import Broker, Relay, maintenance, streams, wakeup
from tests.patience import eventually
from tests.service.chassis.conftest import running
from tests.service.chassis.subscriber import (
    UNPUBLISHED,
    Subscriber,
    all_sent,
    has_handled,
    publish,
)
from tests.service.chassis.things import happened, scalar


async def test_a_stream_is_declared_once(broker: Broker):
    assert await streams.declare(broker, "ORDERING")
    assert not await streams.declare(broker, "ORDERING")


async def test_a_relay_with_nothing_to_send_leaves_the_database_alone(database: Database, broker: Broker):
    rounds = 0

    class Counting(Relay):
        async def publish_batch(self) -> int:
            nonlocal rounds
            rounds += 1
            return await super().publish_batch()

    async with running(Counting(database, broker, "ordering")):
        await publish(database, happened(reason="x"))
        await eventually(lambda: all_sent(database))
        before = rounds
        await asyncio.sleep(0.5)  # what does not happen cannot be awaited
        assert rounds - before <= 3


async def test_two_relays_at_once_send_every_event_once_and_in_order(database: Database, broker: Broker):
    async with running(Relay(database, broker, "ordering")), running(Relay(database, broker, "ordering")):
        for n in range(60):
            await publish(database, happened("one", str(n)), happened(reason="x"))

        await eventually(lambda: all_sent(database))
    jetstream = await broker.ready()
    info = await jetstream.stream_info("ORDERING")
    assert info.state.messages == 120
    sequence, reasons = 0, []
    for _ in range(60):
        message = await jetstream.get_msg(
            "ORDERING", sequence + 1, "ordering.order.cancelled.v1.one", next=True
        )
        sequence = message.seq or 0
        reasons.append(OrderCancelled.FromString(message.data or b"").reason)
    assert reasons == [str(n) for n in range(60)]


@pytest.mark.usefixtures("relay", "consumer")
@pytest.mark.parametrize("loss", ["delete_stream", "purge_stream"])
async def test_a_lost_stream_is_rebuilt_from_the_outbox_without_second_effects(
    database: Database, broker: Broker, subscriber: Subscriber, loss: str
):
    await publish(database, *(happened(reason=str(n)) for n in range(20)))
    await eventually(lambda: has_handled(subscriber, 20))
    jetstream = await broker.ready()
    await getattr(jetstream, loss)("ORDERING")
    if loss == "purge_stream":  # the stream is there: only a person knows that something is missing
        assert await maintenance.republish(database, "ORDERING") == 20
    await publish(database, happened(reason="new"))
    await eventually(lambda: has_handled(subscriber, 21))
    await eventually(lambda: all_sent(database))
    assert (await jetstream.stream_info("ORDERING")).state.messages == 21
    assert len(await subscriber.handled()) == 21


@pytest.mark.usefixtures("relay")
async def test_what_was_not_handled_when_its_stream_was_lost_is_handled_in_order(
    database: Database, broker: Broker, subscriber: Subscriber
):
    order = str(uuid.uuid4())
    async with running(subscriber.consumer()):
        await publish(database, happened(order, "before"))
        await eventually(lambda: has_handled(subscriber, 1))
    await publish(database, happened(order, "unheard"), happened(order, "unheard too"))
    await eventually(lambda: all_sent(database))
    await (await broker.ready()).delete_stream("ORDERING")
    async with running(subscriber.consumer()):
        await publish(database, happened(order, "after"))
        await eventually(lambda: has_handled(subscriber, 4))
    assert await subscriber.handled() == ["before", "unheard", "unheard too", "after"]


async def test_a_consumer_waits_for_the_stream_of_another_service(
    database: Database, broker: Broker, subscriber: Subscriber
):
    jetstream = await broker.ready()
    requests = asyncio.Event()

    async def asked(_: Any) -> None:
        requests.set()

    await broker.client.subscribe("$JS.API.STREAM.INFO.ORDERING", cb=asked)
    async with running(subscriber.consumer()), running(Relay(database, broker, "catalog")):
        async with asyncio.timeout(15):
            await requests.wait()
        with pytest.raises(NotFoundError):
            await jetstream.stream_info("ORDERING")
        async with running(Relay(database, broker, "ordering")):
            await publish(database, happened(reason="at last"))
            await eventually(lambda: has_handled(subscriber, 1))


async def test_what_an_operator_has_set_on_a_stream_stays(
    database: Database, broker: Broker, subscriber: Subscriber
):
    jetstream = await broker.ready()
    await jetstream.add_stream(name="ORDERING", subjects=["ordering.>"], max_age=3600, max_msgs=5000)
    set_ = (await jetstream.stream_info("ORDERING")).config
    async with running(Relay(database, broker, "ordering")), running(subscriber.consumer()):
        await publish(database, happened(reason="one"))
        await eventually(lambda: has_handled(subscriber, 1))
    assert (await jetstream.stream_info("ORDERING")).config == set_


async def test_an_event_that_the_broker_refuses_holds_up_its_own_aggregate_only(
    database: Database, broker: Broker, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("chassis.events.relay.BATCH", 20)
    jetstream = await broker.ready()
    await jetstream.add_stream(name="ORDERING", subjects=["ordering.>"], max_msg_size=2000)
    await publish(database, happened("large", "x" * 3000), happened("large", "behind"))
    for _ in range(10):
        await publish(database, *(happened() for _ in range(100)))
    async with running(Relay(database, broker, "ordering")):

        async def others_sent() -> bool:
            return await scalar(database, UNPUBLISHED) == 2

        await eventually(others_sent)
        # Once for each time that it was due, and not once for each of the fifty batches.
        assert 1 <= await scalar(database, "SELECT max(attempts) FROM outbox") < 10
        assert "maximum" in await scalar(database, "SELECT max(error) FROM outbox")
        await jetstream.update_stream(name="ORDERING", subjects=["ordering.>"], max_msg_size=-1)
        await eventually(lambda: all_sent(database))
    first = await jetstream.get_msg("ORDERING", 1, "ordering.order.cancelled.v1.large", next=True)
    assert len(OrderCancelled.FromString(first.data or b"").reason) == 3000


@pytest.mark.parametrize("elsewhere", [False, True], ids=["the same process", "another process"])
async def test_a_commit_wakes_the_relay_of(
    database: Database, broker: Broker, migrated_url: str, monkeypatch: pytest.MonkeyPatch, elsewhere: bool
):
    monkeypatch.setattr("chassis.events.relay.POLL_SECONDS", 3600.0)
    async with AsyncExitStack() as processes:
        publishing = database
        if elsewhere:
            publishing = await processes.enter_async_context(Database(migrated_url, name="things"))
            announcing = asyncio.create_task(wakeup.announce(publishing, broker))
            processes.callback(announcing.cancel)
        await processes.enter_async_context(running(Relay(database, broker, "ordering")))
        for _ in range(3):
            # Only then does it wait to be woken.
            await eventually(lambda: all_sent(database))
            await publish(publishing, happened())
        await eventually(lambda: all_sent(database))


async def test_nothing_notifies_in_a_transaction_that_publishes(database: Database):
    """NOTIFY has a lock of the whole server, so that all commits with it queue for each other."""
    assert (
        await scalar(
            database, "SELECT count(*) FROM pg_proc WHERE prosrc ILIKE '%%notify%%' AND prolang > 14"
        )
        == 0
    )
