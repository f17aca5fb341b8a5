"""Events from the outbox to the inbox: delivery, one trace, retention."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from protomesh.ordering.v1.ordering_events_pb2 import OrderCancelled
from protomesh.type.v1.money_pb2 import Money

from chassis.contract import event_type, stream_subjects
from chassis.data import Database, retention
from chassis.events import Broker, inbox, maintenance
from chassis.observe import OtlpExport, Recorder, tracing
from tests.patience import eventually
from tests.service.chassis.conftest import running
from tests.service.chassis.subscriber import (
    UNPUBLISHED,
    Journal,
    Subscriber,
    all_sent,
    has_handled,
    publish,
)
from tests.service.chassis.things import happened, scalar


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
