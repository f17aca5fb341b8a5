"""Events whose handler fails: retried, given up, replayed."""

import uuid

import pytest
from protomesh.ordering.v1.ordering_events_pb2 import OrderCancelled
from sqlalchemy import text

from chassis.data import Database, UnitOfWork
from chassis.events import Broker, Envelope, dead_letters, streams
from tests.patience import eventually
from tests.service.chassis.conftest import running
from tests.service.chassis.subscriber import Subscriber, has_handled, is_buried, letters, publish
from tests.service.chassis.things import happened, scalar


@pytest.mark.usefixtures("relay", "consumer")
async def test_a_poison_event_holds_up_its_own_aggregate_only_and_ends_among_the_dead_letters(
    database: Database, broker: Broker, subscriber: Subscriber
):
    subscriber.broken.add("poison")
    await publish(database, happened("sick", "poison"), happened("sick", "behind"), happened("well", "other"))
    await eventually(lambda: has_handled(subscriber, 1))
    assert await subscriber.handled() == ["other"]
    await eventually(lambda: has_handled(subscriber, 2))
    assert await subscriber.handled() == ["other", "behind"]
    [letter] = await letters(broker, subscriber.name)
    assert (letter.consumer, letter.attempts, letter.aggregate_id) == (subscriber.name, 3, "sick")
    assert letter.error == "RuntimeError: cannot handle poison at all"
    assert OrderCancelled.FromString(letter.payload).reason == "poison"
    assert await scalar(database, "SELECT count(*) FROM inbox_failures") == 0


@pytest.mark.usefixtures("relay", "consumer")
async def test_an_event_that_recovers_leaves_no_trace_of_its_failure(
    database: Database, subscriber: Subscriber
):
    subscriber.broken.add("moody")
    await publish(database, happened("one", "moody"))

    async def failed() -> bool:
        return bool(subscriber.attempts["moody"])

    await eventually(failed)
    subscriber.broken.clear()
    await eventually(lambda: has_handled(subscriber, 1))
    assert await scalar(database, "SELECT count(*) FROM inbox_failures") == 0
    assert await scalar(database, "SELECT count(*) FROM inbox WHERE outcome = 'handled'") == 1


@pytest.mark.usefixtures("relay", "consumer")
async def test_a_replayed_dead_letter_reaches_only_the_consumer_that_gave_it_up(
    database: Database, broker: Broker, subscriber: Subscriber, migrated_url: str
):
    subscriber.broken.add("poison")
    bystander = Subscriber(database, broker, f"bystander.{uuid.uuid4().hex[:8]}")
    async with running(bystander.consumer()):
        await publish(database, happened("sick", "poison"))

        await eventually(lambda: is_buried(broker, subscriber.name))
        [letter] = await letters(broker, subscriber.name)
        assert (await dead_letters.show(broker, letter.sequence)).event_id == letter.event_id
        subscriber.broken.clear()
        await dead_letters.replay(broker, letter.sequence)
        await eventually(lambda: has_handled(subscriber, 2))  # the bystander's, and the replayed one's
        assert bystander.attempts == {"poison": 1}
        assert subscriber.attempts == {"poison": 4}
        assert await letters(broker, subscriber.name) == []
        with pytest.raises(LookupError):
            await dead_letters.replay(broker, letter.sequence)


@pytest.mark.usefixtures("relay")
async def test_a_dead_letter_does_not_say_which_row_was_refused(
    database: Database, broker: Broker, monkeypatch: pytest.MonkeyPatch
):
    subscriber = Subscriber(database, broker, f"refused.{uuid.uuid4().hex[:8]}")

    async def handle(event: OrderCancelled, _: Envelope, work: UnitOfWork) -> None:
        insert = text("INSERT INTO things (id, name, rank) VALUES (gen_random_uuid(), :name, NULL)")
        await work.execute(insert, {"name": "ada@example.com"})

    monkeypatch.setattr(subscriber, "handle", handle)
    async with running(subscriber.consumer()):
        await publish(database, happened("one", "refused"))

        await eventually(lambda: is_buried(broker, subscriber.name))
    [letter] = await letters(broker, subscriber.name)
    assert "NotNullViolation" in letter.error
    assert "DETAIL" in letter.error
    assert "ada@" not in letter.error


@pytest.mark.usefixtures("relay", "consumer")
async def test_what_is_no_message_of_its_type_goes_straight_to_the_dead_letters(
    broker: Broker, subscriber: Subscriber
):
    await streams.declare(broker, "ORDERING")
    await broker.publish("ordering.order.cancelled.v1.x", b"\xff\xff", {})

    await eventually(lambda: is_buried(broker, subscriber.name))
    [letter] = await letters(broker, subscriber.name)
    assert letter.error == "The payload is not a protomesh.ordering.v1.OrderCancelled."
