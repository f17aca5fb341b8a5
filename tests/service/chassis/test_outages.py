"""Consumers and relays while a part is away or too slow: they wait for it, and that is no attempt."""

import asyncio
import urllib.parse
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from protomesh.ordering.v1.ordering_events_pb2 import OrderCancelled

from chassis.data import Database, UnitOfWork
from chassis.events import Broker, Policy, Relay
from tests.patience import eventually
from tests.proxy import Proxy
from tests.service.chassis.conftest import running
from tests.service.chassis.scripted import QUICK, Scripted, handled, nothing_counted
from tests.service.chassis.subscriber import publish
from tests.service.chassis.things import happened, scalar

pytestmark = pytest.mark.usefixtures("short_pauses")


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
    subscriber = Scripted(away, broker, act, policy)
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

    subscriber = Scripted(database, broker, act)
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

    subscriber = Scripted(database, broker, act)
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
        subscriber = Scripted(database, away, act)
        async with running(subscriber.consumer):
            await publish(database, happened("one", "first"), happened("one", "second"))
            await asyncio.wait_for(in_hand.wait(), 15)
            getattr(proxy, trouble)()
            go_on.set()
            await eventually(done)
            proxy.heal()
            await handled(database, "first", "second")
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
