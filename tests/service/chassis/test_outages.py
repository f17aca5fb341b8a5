"""Consumers in trouble: an outage is no attempt, and one event's trouble is its own."""

import asyncio
import urllib.parse
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any

import grpc
import nats.errors
import psycopg
import psycopg_pool
import pytest
from google.protobuf.message import DecodeError
from protomesh.ordering.v1.ordering_events_pb2 import OrderCancelled
from sqlalchemy import text

from chassis.core import errors
from chassis.data import Database, UnitOfWork
from chassis.events import Broker, Consumer, Envelope, Policy, Relay
from tests.patience import eventually
from tests.proxy import Proxy
from tests.service.chassis.conftest import running
from tests.service.chassis.subscriber import letters, publish
from tests.service.chassis.things import Thing, happened, scalar

QUICK = Policy(attempts=2, backoff=(0.01,), acknowledge_within=2, drain_within=2)

Act = Callable[[OrderCancelled, UnitOfWork], Awaitable[None]]


class Subscriber:
    """A subscription whose handler does what the test says, and notes what it was called with."""

    def __init__(self, database: Database, broker: Broker, act: Act, policy: Policy = QUICK) -> None:
        self.name = f"outages.{uuid.uuid4().hex[:8]}"
        self.calls: Counter[str] = Counter()
        self._act = act
        self.consumer = Consumer(
            database, broker, name=self.name, handlers={OrderCancelled: self._handle}, policy=policy
        )

    async def _handle(self, event: OrderCancelled, _: Envelope, work: UnitOfWork) -> None:
        self.calls[event.reason] += 1
        await self._act(event, work)
        work.add(Thing(name=event.reason))


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chassis.events.processor._FIRST_OUTAGE_SECONDS", 0.02)
    monkeypatch.setattr("chassis.events.processor._LONGEST_OUTAGE_SECONDS", 0.1)


async def handled(database: Database, *reasons: str) -> None:
    """Waits for the effects of these events, each of them once, and of no others."""

    async def all_there() -> bool:
        return bool(await scalar(database, "SELECT count(*) >= %s FROM things", len(reasons)))

    await eventually(all_there)
    async with database.connection() as connection:
        rows = await (await connection.execute("SELECT name FROM things")).fetchall()
    assert sorted(row[0] for row in rows) == sorted(reasons)


async def nothing_counted(database: Database, broker: Broker, subscriber: Subscriber) -> None:
    """No attempt is on record, and nothing is dead."""
    assert await scalar(database, "SELECT coalesce(sum(attempts), 0) FROM inbox_failures") == 0
    assert await letters(broker, subscriber.name) == []


def unavailable(code: grpc.StatusCode) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), "not now")


def caused(error: Exception) -> Exception:
    wrapped = RuntimeError("a client library's own")
    wrapped.__cause__ = error
    return wrapped


@pytest.mark.usefixtures("relay")
@pytest.mark.parametrize(
    "outage",
    [
        psycopg_pool.PoolTimeout("no connection"),
        psycopg.OperationalError("the connection is lost"),
        psycopg.errors.AdminShutdown("terminating"),
        psycopg.errors.TooManyConnections("sorry, too many clients"),
        nats.errors.NoServersError(),
        ConnectionResetError(),
        unavailable(grpc.StatusCode.UNAVAILABLE),
        unavailable(grpc.StatusCode.DEADLINE_EXCEEDED),
        unavailable(grpc.StatusCode.RESOURCE_EXHAUSTED),
        errors.unavailable(),
        caused(ConnectionRefusedError()),
        ExceptionGroup("tasks", [unavailable(grpc.StatusCode.UNAVAILABLE)]),
    ],
    ids=repr,
)
async def test_however_often_an_outage_interrupts_a_handler_its_event_is_no_nearer_to_the_dead_letters(
    database: Database, broker: Broker, outage: Exception
):
    async def act(event: OrderCancelled, _: UnitOfWork) -> None:
        if subscriber.calls[event.reason] <= 4 * QUICK.attempts:
            raise outage

    subscriber = Subscriber(database, broker, act)
    async with running(subscriber.consumer):
        await publish(database, happened("one", "interrupted"), happened("one", "behind"))
        await handled(database, "interrupted", "behind")
        await nothing_counted(database, broker, subscriber)


@pytest.mark.usefixtures("relay")
async def test_an_outage_in_a_later_attempt_is_none_either(database: Database, broker: Broker):
    """Later attempts are on record before they begin, so that one which kills its process counts."""

    async def act(event: OrderCancelled, _: UnitOfWork) -> None:
        if subscriber.calls[event.reason] == 1:
            raise ZeroDivisionError
        if subscriber.calls[event.reason] <= 4 * policy.attempts:
            raise ConnectionResetError

    policy = replace(QUICK, attempts=3)
    subscriber = Subscriber(database, broker, act, policy)
    async with running(subscriber.consumer):
        await publish(database, happened("one", "interrupted"))
        await handled(database, "interrupted")
        assert await letters(broker, subscriber.name) == []


@pytest.mark.usefixtures("relay")
@pytest.mark.parametrize("error", [DecodeError("of a message within"), psycopg.errors.QueryCanceled("slow")])
async def test_what_goes_wrong_in_the_handler_is_an_attempt_and_no_poison(
    database: Database, broker: Broker, error: Exception
):
    async def act(event: OrderCancelled, _: UnitOfWork) -> None:
        if subscriber.calls[event.reason] == 1:
            raise error

    subscriber = Subscriber(database, broker, act)
    async with running(subscriber.consumer):
        await publish(database, happened(reason="moody"))
        await handled(database, "moody")
        await nothing_counted(database, broker, subscriber)


@pytest.mark.usefixtures("relay")
async def test_an_event_that_hangs_is_given_up_and_holds_up_nobody_else(
    database: Database, broker: Broker, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("chassis.events.processor._LONGEST_BATCH_SECONDS", 0.2)

    async def act(event: OrderCancelled, _: UnitOfWork) -> None:
        if event.reason == "hangs":
            await asyncio.Event().wait()

    subscriber = Subscriber(database, broker, act, Policy(2, (0.01,), handle_within=0.2, drain_within=0))
    async with running(subscriber.consumer):
        await publish(
            database, happened("sick", "hangs"), happened("sick", "behind"), happened(reason="well")
        )
        await handled(database, "well", "behind")
    [letter] = await letters(broker, subscriber.name)
    assert (letter.aggregate_id, letter.error) == ("sick", "TimeoutError:")


@pytest.fixture
async def proxied(migrated_url: str) -> AsyncIterator[tuple[Proxy, Database]]:
    """The database by way of a proxy."""
    url = urllib.parse.urlsplit(migrated_url)
    assert url.hostname
    assert url.port
    async with Proxy.before(url.hostname, url.port) as proxy:
        through = url._replace(netloc=url.netloc.replace(f":{url.port}", f":{proxy.port}")).geturl()
        async with Database(through, name="things") as database:
            yield proxy, database


@pytest.mark.usefixtures("relay")
@pytest.mark.parametrize("trouble", ["hang", "cut"])
async def test_a_database_that_is_away_is_waited_for(
    database: Database,
    broker: Broker,
    proxied: tuple[Proxy, Database],
    caplog: pytest.LogCaptureFixture,
    trouble: str,
):
    proxy, away = proxied
    in_hand = asyncio.Event()

    async def act(event: OrderCancelled, work: UnitOfWork) -> None:
        if not in_hand.is_set():
            getattr(proxy, trouble)()
            in_hand.set()

    policy = Policy(2, (0.01,), handle_within=0.3, acknowledge_within=2, drain_within=0)
    subscriber = Subscriber(away, broker, act, policy)
    async with running(subscriber.consumer):
        await publish(database, happened("one", "first"), happened("two", "other"), happened("one", "second"))
        await eventually(lambda: "will be retried" in caplog.text)
        proxy.heal()
        await handled(database, "first", "other", "second")
        await nothing_counted(database, broker, subscriber)


@pytest.fixture
async def slow_down(database: Database) -> Callable[[], Awaitable[None]]:
    """Makes the database so slow that no write of a consumer ends before its statement's time is up."""
    async with database.connection() as connection:
        await connection.execute("CREATE TABLE slowness ()")
        await connection.execute(
            """
            CREATE FUNCTION be_slow() RETURNS trigger LANGUAGE plpgsql AS
            'BEGIN IF EXISTS (SELECT FROM slowness) THEN PERFORM pg_sleep(10); END IF; RETURN NEW; END'
            """
        )
        for table in ("things", "inbox", "inbox_failures"):
            await connection.execute(
                f"CREATE TRIGGER slow BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION be_slow()"
            )

    async def begin() -> None:
        async with database.connection() as connection:
            await connection.execute("INSERT INTO slowness DEFAULT VALUES")

    return begin


@pytest.mark.usefixtures("relay")
async def test_a_database_that_is_too_slow_is_waited_for(
    database: Database,
    broker: Broker,
    caplog: pytest.LogCaptureFixture,
    slow_down: Callable[[], Awaitable[None]],
):
    async def act(event: OrderCancelled, _: UnitOfWork) -> None:
        if subscriber.calls.total() == 1:
            await slow_down()

    subscriber = Subscriber(database, broker, act)
    async with running(subscriber.consumer):
        await publish(database, happened("one", "first"), happened("two", "other"), happened("one", "second"))
        await eventually(lambda: caplog.text.count("will be retried: QueryCanceled") > QUICK.attempts)
        await scalar(database, "DELETE FROM slowness RETURNING 1")
        await handled(database, "first", "other", "second")
        await nothing_counted(database, broker, subscriber)


@pytest.mark.usefixtures("relay")
async def test_a_database_that_becomes_too_slow_during_the_last_attempt_is_waited_for(
    database: Database,
    broker: Broker,
    caplog: pytest.LogCaptureFixture,
    slow_down: Callable[[], Awaitable[None]],
):
    async def act(event: OrderCancelled, _: UnitOfWork) -> None:
        if subscriber.calls[event.reason] == 1:
            raise ZeroDivisionError
        if subscriber.calls[event.reason] == QUICK.attempts:
            await slow_down()

    subscriber = Subscriber(database, broker, act)
    async with running(subscriber.consumer):
        await publish(database, happened("one", "interrupted"))
        await eventually(lambda: "will be retried: QueryCanceled" in caplog.text)
        await scalar(database, "DELETE FROM slowness RETURNING 1")
        await handled(database, "interrupted")
        await nothing_counted(database, broker, subscriber)


@pytest.mark.usefixtures("relay")
@pytest.mark.parametrize("trouble", ["hang", "cut"])
async def test_nats_that_is_away_is_waited_for(
    database: Database, broker: Broker, nats_url: str, trouble: str
):
    port = int(nats_url.rpartition(":")[2])
    in_hand, go_on = asyncio.Event(), asyncio.Event()

    async def act(event: OrderCancelled, _: UnitOfWork) -> None:
        in_hand.set()
        await go_on.wait()

    async def done() -> bool:
        return bool(await scalar(database, "SELECT count(*) FROM things"))

    async with (
        Proxy.before("127.0.0.1", port) as proxy,
        Broker(nats_url.replace(f":{port}", f":{proxy.port}")) as away,
    ):
        subscriber = Subscriber(database, away, act)
        async with running(subscriber.consumer):
            await publish(database, happened("one", "first"), happened("one", "second"))
            await asyncio.wait_for(in_hand.wait(), 15)
            getattr(proxy, trouble)()
            go_on.set()
            await eventually(done)
            proxy.heal()
            await handled(database, "first", "second")
            await nothing_counted(database, broker, subscriber)


@pytest.mark.usefixtures("relay")
async def test_events_that_cannot_be_committed_together_are_handled_one_by_one(
    database: Database, broker: Broker
):
    async def act(event: OrderCancelled, work: UnitOfWork) -> None:
        if subscriber.calls.total() == 1:
            await eventually(the_others_wait)
        elif subscriber.calls.total() <= 3:
            table = "late (id int UNIQUE DEFERRABLE INITIALLY DEFERRED)"
            await work.execute(text(f"CREATE TEMPORARY TABLE IF NOT EXISTS {table} ON COMMIT DROP"))
            await work.execute(text("INSERT INTO late VALUES (1)"))

    async def the_others_wait() -> bool:
        info = await (await broker.ready()).consumer_info("ORDERING", subscriber.name.replace(".", "-"))
        return info.num_ack_pending == 3

    subscriber = Subscriber(database, broker, act, replace(QUICK, concurrency=1, acknowledge_within=60))
    async with running(subscriber.consumer):
        await publish(database, *(happened(reason=reason) for reason in ("first", "one", "other")))
        await handled(database, "first", "one", "other")
        await nothing_counted(database, broker, subscriber)


@pytest.mark.usefixtures("relay")
async def test_a_handler_that_cannot_be_stopped_in_time_is_held_up_by_an_outage(
    database: Database, broker: Broker, monkeypatch: pytest.MonkeyPatch
):
    """Its time was up, and its statement could not be cancelled: that says nothing about the event."""
    monkeypatch.setattr("chassis.events.transaction._CANCEL_SECONDS", 0.05)

    async def act(event: OrderCancelled, _: UnitOfWork) -> None:
        if subscriber.calls[event.reason] <= 2 * QUICK.attempts:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                await asyncio.sleep(0.1)
                raise

    subscriber = Subscriber(database, broker, act, replace(QUICK, handle_within=0.05))
    async with running(subscriber.consumer):
        await publish(database, happened("one", "held up"))
        await handled(database, "held up")
        await nothing_counted(database, broker, subscriber)


async def test_a_relay_goes_on_after_an_outage_of_its_database(
    proxied: tuple[Proxy, Database],
    database: Database,
    broker: Broker,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
):
    monkeypatch.setattr("chassis.events.relay.STREAM_SECONDS", 0.05)
    monkeypatch.setattr("chassis.events.maintenance.MEASURE_SECONDS", 0.05)
    proxy, away = proxied

    async def all_sent() -> bool:
        return not await scalar(database, "SELECT count(*) FROM outbox WHERE published_at IS NULL")

    def outage_is_noticed() -> bool:
        return "could not be checked" in caplog.text and "could not be measured" in caplog.text

    async with running(Relay(away, broker, "ordering")):
        await publish(database, happened(reason="before"))
        await eventually(all_sent)
        with caplog.at_level("DEBUG", "chassis.events"):
            proxy.hang()
            proxy.cut()
            await (await broker.ready()).delete_stream("ORDERING")
            await eventually(outage_is_noticed)
            proxy.heal()
        await publish(database, happened(reason="after"))
        await eventually(all_sent)
    assert (await (await broker.ready()).stream_info("ORDERING")).state.messages == 2


@pytest.mark.usefixtures("relay")
async def test_an_event_that_takes_long_is_kept_from_being_delivered_again(
    database: Database, broker: Broker
):
    alive, kept = 0, asyncio.Event()

    async def acknowledged(message: Any) -> None:
        nonlocal alive
        alive += message.data == b"+WPI"
        if alive >= 4:
            kept.set()

    async def act(event: OrderCancelled, _: UnitOfWork) -> None:
        await kept.wait()

    subscriber = Subscriber(database, broker, act, Policy(acknowledge_within=1))
    await broker.client.subscribe("$JS.ACK.ORDERING.>", cb=acknowledged)
    async with running(subscriber.consumer), asyncio.timeout(20):
        await publish(database, happened(reason="slow"))
        await kept.wait()
        await handled(database, "slow")
    assert subscriber.calls == {"slow": 1}


@pytest.mark.usefixtures("relay")
async def test_a_consumer_takes_no_more_in_hand_than_it_has_room_for(database: Database, broker: Broker):
    busy, go_on = asyncio.Event(), asyncio.Event()

    async def act(event: OrderCancelled, _: UnitOfWork) -> None:
        busy.set()
        await go_on.wait()

    subscriber = Subscriber(database, broker, act, Policy(concurrency=1, batch=5, acknowledge_within=30))
    reasons = [str(number) for number in range(40)]
    await publish(database, *(happened(reason=reason) for reason in reasons))

    async def taken() -> int:
        info = await (await broker.ready()).consumer_info("ORDERING", subscriber.name.replace(".", "-"))
        return info.num_ack_pending or 0

    async with running(subscriber.consumer):
        await asyncio.wait_for(busy.wait(), 15)
        await eventually(taken)
        # Had it asked for more, they would have come along.
        await broker.client.flush()
        assert await taken() <= 10
        go_on.set()
        await handled(database, *reasons)
