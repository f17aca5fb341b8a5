"""Events from the outbox to the inbox: delivery, one trace, retention, drain."""

import asyncio
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from protomesh.ordering.v1.ordering_events_pb2 import OrderCancelled
from protomesh.type.v1.money_pb2 import Money

from chassis.contract import event_type, stream_subjects
from chassis.data import Database, UnitOfWork, retention
from chassis.events import Broker, Consumer, Envelope, Policy, Relay, inbox, maintenance
from chassis.observe import OtlpExport, Recorder, tracing
from tests.service.chassis.conftest import running
from tests.service.chassis.subscriber import (
    QUICK,
    UNPUBLISHED,
    Journal,
    Subscriber,
    all_sent,
    eventually,
    has_handled,
    publish,
)
from tests.service.chassis.things import Thing, happened, scalar


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
    await eventually(lambda: has_handled(subscriber, 1))
    message = await (await broker.ready()).get_last_msg("ORDERING", "ordering.order.cancelled.v1.one")
    # Beyond the broker's window of duplicates it would be sent again; here under another message id.
    headers = {**dict(message.headers or {}), "Nats-Msg-Id": "again"}
    await broker.publish("ordering.order.cancelled.v1.one", message.data or b"", headers)
    await publish(database, happened(reason="last"))
    await eventually(lambda: has_handled(subscriber, 2))
    assert sorted(await subscriber.handled()) == ["last", "once"]


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
    await eventually(lambda: has_handled(subscriber, 1))

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
    await eventually(lambda: has_handled(subscriber, 2))

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
