"""Events from the outbox to the inbox: delivery, order, failure, dead letters, replay, one trace."""

import asyncio
import json
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from google.protobuf.message import Message
from nats.js.errors import NotFoundError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from protomesh.ordering.v1.ordering_events_pb2 import OrderCancelled, OrderPlaced
from protomesh.type.v1.money_pb2 import Money
from sqlalchemy import text

from chassis.contract import event_type, stream_subjects
from chassis.core import uuid7
from chassis.data import Database, UnitOfWork, retention
from chassis.events import (
    Broker,
    Consumer,
    Envelope,
    Policy,
    Relay,
    dead_letters,
    inbox,
    maintenance,
    streams,
    wakeup,
)
from chassis.observe import OtlpExport, Recorder, tracing
from tests.service.chassis.conftest import running
from tests.service.chassis.things import Thing, happened, scalar

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


@pytest.fixture
def subscriber(database: Database, broker: Broker) -> Subscriber:
    return Subscriber(database, broker, f"things.{uuid.uuid4().hex[:8]}")


@pytest.fixture
async def consumer(subscriber: Subscriber) -> AsyncIterator[Consumer]:
    async with running(subscriber.consumer()) as started:
        yield started


async def publish(database: Database, *events: Message) -> None:
    async with database.unit_of_work() as work:
        for event in events:
            work.publish(event)


async def eventually(condition: Callable[[], Awaitable[bool]], within: float = 15) -> None:
    async with asyncio.timeout(within):
        while not await condition():  # noqa: ASYNC110 (the far end tells nobody)
            await asyncio.sleep(0.02)


async def all_sent(database: Database) -> bool:
    return not await scalar(database, UNPUBLISHED)


async def is_buried(broker: Broker, consumer: str) -> bool:
    """Whether a consumer has given an event up."""
    return bool(await letters(broker, consumer))


async def letters(broker: Broker, consumer: str) -> list[dead_letters.DeadLetter]:
    return [letter async for letter in dead_letters.listed(broker, consumer)]


def test_a_message_that_is_no_event_cannot_be_published():
    with pytest.raises(TypeError, match="event"):
        event_type(Money)


async def test_an_event_without_an_aggregate_or_with_subject_syntax_in_it_is_refused(database: Database):
    for wrong in ("a.b", "*", "a b", ">"):
        with pytest.raises(ValueError, match="order_id"):
            await publish(database, happened(wrong))
    with pytest.raises(ValueError, match="order_id"):
        await publish(database, OrderCancelled())
    with pytest.raises(ValueError, match="bytes"):
        await publish(database, happened(reason="x" * 600_000))


def test_a_stream_takes_the_subjects_under_its_own_name():
    assert stream_subjects("ORDERING") == "ordering.>"
    assert event_type(OrderCancelled).filter == "ordering.order.cancelled.v1.*"


@pytest.mark.usefixtures("relay", "consumer")
async def test_an_event_arrives_with_its_effects(database: Database, subscriber: Subscriber):
    await publish(database, *(happened(reason=f"r{n}") for n in range(50)))

    async def all_there() -> bool:
        return len(await subscriber.handled()) == 50

    await eventually(all_there)
    assert set(await subscriber.handled()) == {f"r{n}" for n in range(50)}
    assert await scalar(database, UNPUBLISHED) == 0
    assert await scalar(database, "SELECT count(*) FROM inbox") == 50


@pytest.mark.usefixtures("relay")
async def test_a_sent_event_is_a_cloud_event(database: Database, broker: Broker):
    await publish(database, happened("one"))

    await eventually(lambda: all_sent(database))
    message = await (await broker.ready()).get_last_msg("ORDERING", "ordering.order.cancelled.v1.one")
    headers = dict(message.headers or {})
    assert headers["ce-id"] == headers["Nats-Msg-Id"] == str(await scalar(database, "SELECT id FROM outbox"))
    assert headers["ce-type"] == "protomesh.ordering.v1.OrderCancelled"
    assert headers["ce-source"] == "/protomesh/ordering"
    assert headers["ce-subject"] == "one"
    assert headers["ce-specversion"] == "1.0"


@pytest.mark.usefixtures("relay", "consumer")
async def test_a_delivered_duplicate_has_no_second_effect(
    database: Database, broker: Broker, subscriber: Subscriber
):
    await publish(database, happened("one", "once"))
    await eventually(lambda: _has_handled(subscriber, 1))
    message = await (await broker.ready()).get_last_msg("ORDERING", "ordering.order.cancelled.v1.one")
    # Beyond the broker's window of duplicates it would be sent again; here under another message id.
    headers = {**dict(message.headers or {}), "Nats-Msg-Id": "again"}
    await broker.publish("ordering.order.cancelled.v1.one", message.data or b"", headers)
    await publish(database, happened(reason="last"))
    await eventually(lambda: _has_handled(subscriber, 2))
    assert sorted(await subscriber.handled()) == ["last", "once"]


async def _has_handled(subscriber: Subscriber, count: int) -> bool:
    return len(await subscriber.handled()) >= count


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
        await eventually(lambda: _has_handled(subscriber, 50), within=30)
    handled = await subscriber.handled()
    for aggregate in aggregates:
        mine = [reason for reason in handled if reason.startswith(aggregate)]
        assert mine == [f"{aggregate}/{n}" for n in range(10)]


@pytest.mark.usefixtures("relay", "consumer")
async def test_a_poison_event_holds_up_its_own_aggregate_only_and_ends_among_the_dead_letters(
    database: Database, broker: Broker, subscriber: Subscriber
):
    subscriber.broken.add("poison")
    await publish(database, happened("sick", "poison"), happened("sick", "behind"), happened("well", "other"))
    await eventually(lambda: _has_handled(subscriber, 1))
    assert await subscriber.handled() == ["other"]
    await eventually(lambda: _has_handled(subscriber, 2))
    assert await subscriber.handled() == ["other", "behind"]
    [letter] = await letters(broker, subscriber.name)
    assert (letter.consumer, letter.attempts, letter.aggregate_id) == (subscriber.name, 3, "sick")
    assert letter.error == "RuntimeError: cannot handle poison at all"
    assert OrderCancelled.FromString(letter.payload).reason == "poison"
    assert await scalar(database, "SELECT count(*) FROM inbox_failures") == 0


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


@pytest.mark.usefixtures("relay")
async def test_a_handler_is_told_id_type_aggregate_version_time_and_trace(database: Database, broker: Broker):
    journal = Journal(database, broker)
    async with running(journal.consumer()), asyncio.timeout(15):
        with tracing.span("request"):
            trace_id = tracing.trace_id()
            async with database.unit_of_work() as work:
                work.publish(happened("one"), version=7)
        await journal.until(1)
    [(_, envelope)] = journal.told
    assert envelope.event_id == await scalar(database, "SELECT id FROM outbox")
    assert envelope.event_type == "protomesh.ordering.v1.OrderCancelled"
    assert (envelope.aggregate_id, envelope.aggregate_version) == ("one", 7)
    assert envelope.occurred_at == await scalar(database, "SELECT created_at FROM outbox")
    assert trace_id in envelope.traceparent


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
    await eventually(lambda: _has_handled(subscriber, 1))
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
        await eventually(lambda: _has_handled(subscriber, 2))  # the bystander's, and the replayed one's
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
        await eventually(lambda: _has_handled(subscriber, 1))


async def test_a_relay_with_nothing_to_send_leaves_the_database_alone(database: Database, broker: Broker):
    rounds = 0

    class Counting(Relay):
        async def publish_batch(self) -> int:
            nonlocal rounds
            rounds += 1
            return await super().publish_batch()

    async def is_sent() -> bool:
        return await all_sent(database)

    async with running(Counting(database, broker, "ordering")):
        await publish(database, happened(reason="x"))
        await eventually(is_sent)
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
    await eventually(lambda: _has_handled(subscriber, 20))
    jetstream = await broker.ready()
    await getattr(jetstream, loss)("ORDERING")
    if loss == "purge_stream":  # the stream is there: only a person knows that something is missing
        assert await maintenance.republish(database, "ORDERING") == 20
    await publish(database, happened(reason="new"))
    await eventually(lambda: _has_handled(subscriber, 21))
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
        await eventually(lambda: _has_handled(subscriber, 1))
    await publish(database, happened(order, "unheard"), happened(order, "unheard too"))
    await eventually(lambda: all_sent(database))
    await (await broker.ready()).delete_stream("ORDERING")
    async with running(subscriber.consumer()):
        await publish(database, happened(order, "after"))
        await eventually(lambda: _has_handled(subscriber, 4))
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
            await eventually(lambda: _has_handled(subscriber, 1))


async def test_what_an_operator_has_set_on_a_stream_stays(
    database: Database, broker: Broker, subscriber: Subscriber
):
    jetstream = await broker.ready()
    await jetstream.add_stream(name="ORDERING", subjects=["ordering.>"], max_age=3600, max_msgs=5000)
    set_ = (await jetstream.stream_info("ORDERING")).config
    async with running(Relay(database, broker, "ordering")), running(subscriber.consumer()):
        await publish(database, happened(reason="one"))
        await eventually(lambda: _has_handled(subscriber, 1))
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
        await eventually(lambda: all_sent(database), within=30)
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


class Spans(list[Any]):
    """What was exported, as OTLP spans."""

    def export(self, request: ExportTraceServiceRequest) -> None:
        self.extend(span for r in request.resource_spans for s in r.scope_spans for span in s.spans)

    def named(self, name: str) -> list[Any]:
        tracing.recorder().flush()
        return [span for span in self if span.name == name]


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[Spans]:
    found = Spans()
    recorder = Recorder(OtlpExport(found.export))
    monkeypatch.setattr(tracing, "_recorder", recorder)
    yield found
    recorder.shutdown()


@pytest.mark.usefixtures("relay", "consumer")
async def test_one_trace_covers_request_outbox_broker_consumer_and_sql(
    database: Database, subscriber: Subscriber, spans: Spans
):
    with tracing.span("request") as request:
        await publish(database, happened(reason="a value"))
    await eventually(lambda: _has_handled(subscriber, 1))

    async def complete() -> bool:
        return bool(spans.named("process protomesh.ordering.v1.OrderCancelled"))

    await eventually(complete)
    [sent] = spans.named("publish protomesh.ordering.v1.OrderCancelled")
    [processed] = spans.named("process protomesh.ordering.v1.OrderCancelled")
    assert sent.parent_span_id == request.get_span_context().span_id.to_bytes(8, "big")
    assert processed.parent_span_id == sent.span_id
    assert {span.trace_id for span in spans} == {request.get_span_context().trace_id.to_bytes(16, "big")}
    inserts = spans.named("SQL INSERT")
    assert any("INSERT INTO outbox" in str(span.attributes) for span in inserts)
    assert any(span.parent_span_id == processed.span_id for span in inserts)
    assert not any("a value" in str(span) for span in spans)


@pytest.mark.usefixtures("relay", "consumer")
async def test_what_is_past_its_keeping_time_is_deleted(database: Database, subscriber: Subscriber):
    await publish(database, happened(reason="old"), happened(reason="new"))
    await eventually(lambda: _has_handled(subscriber, 2))

    await eventually(lambda: all_sent(database))
    async with database.connection() as connection:
        await connection.execute(
            "UPDATE outbox SET published_at = now() - interval '8 days' WHERE position = 1"
        )
        await connection.execute("UPDATE inbox SET handled_at = now() - interval '31 days'")
    await retention.purge(database, (maintenance.purge, inbox.purge))
    assert await scalar(database, "SELECT count(*) FROM outbox") == 1
    assert await scalar(database, "SELECT count(*) FROM inbox") == 0


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
        task = asyncio.create_task(subscriber.consumer().run())
        await publish(database, happened(reason="x"))
        async with asyncio.timeout(15):
            while sum(subscriber.attempts.values()) == before:  # noqa: ASYNC110 (any moment will do)
                await asyncio.sleep(0)
        task.cancel()
        done, _ = await asyncio.wait([task], timeout=5)
        assert done
