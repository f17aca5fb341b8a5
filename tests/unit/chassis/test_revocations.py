"""How revocations arrive, whatever becomes of NATS on the way."""

import asyncio
import time
import urllib.parse
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import nats.errors
import pytest
from protomesh.identity.v1.identity_events_pb2 import SessionsRevoked

from chassis.events import Broker, RevocationFeed, streams
from chassis.trust import Revocations
from tests.patience import eventually
from tests.proxy import Proxy

USER = "11111111-1111-7111-8111-111111111111"


@pytest.fixture
async def broker(nats_url: str) -> AsyncIterator[Broker]:
    async with Broker(nats_url) as connected:
        await streams.declare(connected, "IDENTITY")
        yield connected


@pytest.fixture
async def proxy(nats_url: str) -> AsyncIterator[Proxy]:
    url = urllib.parse.urlsplit(nats_url)
    assert url.hostname
    assert url.port
    async with Proxy.before(url.hostname, url.port) as running:
        yield running


def through(proxy: Proxy, nats_url: str) -> str:
    """The broker's URL by way of the proxy."""
    url = urllib.parse.urlsplit(nats_url)
    return url._replace(netloc=url.netloc.replace(f":{url.port}", f":{proxy.port}")).geturl()


async def revoke(broker: Broker) -> str:
    """Publishes that a session has ended; which."""
    event = SessionsRevoked(user_id=USER, session_ids=[str(uuid.uuid4())])
    event.revoked_at.GetCurrentTime()
    subject = f"identity.sessions.revoked.v1.{USER}"
    await broker.publish(subject, event.SerializeToString(), {})
    return str(event.session_ids[0])


@asynccontextmanager
async def following(broker: Broker) -> AsyncIterator[tuple[Revocations, RevocationFeed]]:
    """A process's revocations, kept up to date."""
    revocations = Revocations()
    feed = RevocationFeed(revocations)
    task = asyncio.create_task(feed.follow(broker))
    try:
        yield revocations, feed
    finally:
        task.cancel()
        await asyncio.wait([task])


async def known(revocations: Revocations, session_id: str) -> None:
    """Returns once a session is known to have ended."""
    await eventually(lambda: revocations.covers(USER, session_id, time.time()), within=10)


async def test_a_revocation_is_heard_by_who_runs_and_by_who_starts_later(broker: Broker) -> None:
    async with following(broker) as (early, _):
        ended = await revoke(broker)
        await known(early, ended)
    async with following(broker) as (late, feed):
        assert await feed.caught_up(within=10)
        assert late.covers(USER, ended, time.time())
        assert not late.covers(USER, "another", time.time())


async def test_a_process_knows_when_it_has_read_all_that_was_there(broker: Broker) -> None:
    ended = [await revoke(broker) for _ in range(500)]
    async with following(broker) as (revocations, feed):
        assert await feed.caught_up(within=10)
        assert all(revocations.covers(USER, session_id, time.time()) for session_id in ended)


async def test_what_was_on_its_way_when_the_connection_broke_is_heard(
    broker: Broker, proxy: Proxy, nats_url: str
) -> None:
    async with Broker(through(proxy, nats_url)) as lossy, following(lossy) as (revocations, feed):
        assert await feed.caught_up(within=10)
        proxy.swallow()
        lost = await revoke(broker)
        await asyncio.wait_for(proxy.swallowed.wait(), 10)
        proxy.heal()
        proxy.cut()
        async with asyncio.timeout(10):
            # Never silent for long.
            while not revocations.covers(USER, lost, time.time()):
                await revoke(broker)
                await asyncio.sleep(0.1)


async def test_the_last_revocation_before_a_silence_is_heard_though_it_got_lost(
    broker: Broker, proxy: Proxy, nats_url: str
) -> None:
    async with Broker(through(proxy, nats_url)) as lossy, following(lossy) as (revocations, feed):
        assert await feed.caught_up(within=10)
        proxy.swallow()
        lost = await revoke(broker)
        await asyncio.wait_for(proxy.swallowed.wait(), 10)
        proxy.heal()
        await known(revocations, lost)


async def test_revocations_during_a_hang_are_heard_after_it(
    broker: Broker, proxy: Proxy, nats_url: str
) -> None:
    async with Broker(through(proxy, nats_url)) as hung, following(hung) as (revocations, feed):
        assert await feed.caught_up(within=10)
        proxy.hang()
        missed = await revoke(broker)
        await asyncio.sleep(3)  # longer than a silence
        proxy.heal()
        await known(revocations, missed)


async def test_a_process_learns_that_its_backlog_cannot_be_read(nats_url: str) -> None:
    async with (
        Proxy.before("127.0.0.1", 9) as nobody,
        Broker(through(nobody, nats_url)) as away,
        following(away) as (_, feed),
    ):
        assert not await feed.caught_up(within=0.2)


@pytest.mark.parametrize("error", [nats.errors.TimeoutError(), OSError(), RuntimeError(), ValueError()])
async def test_the_feed_goes_on_after_any_error(
    broker: Broker, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    read, errors = RevocationFeed._read, [error]

    async def fail_once(feed: RevocationFeed, *arguments: Any) -> None:
        if errors:
            raise errors.pop()
        await read(feed, *arguments)

    monkeypatch.setattr(RevocationFeed, "_read", fail_once)
    async with following(broker) as (revocations, _):
        await known(revocations, await revoke(broker))
    assert not errors


async def test_an_event_that_is_none_is_passed_over(broker: Broker) -> None:
    async with following(broker) as (revocations, _):
        await broker.publish(f"identity.sessions.revoked.v1.{USER}", b"\xff", {})
        await known(revocations, await revoke(broker))


async def test_without_any_sessions_yet_there_is_nothing_to_wait_for(broker: Broker) -> None:
    await (await broker.ready()).delete_stream("IDENTITY")
    async with following(broker) as (_, feed):
        assert await feed.caught_up(10)


async def test_who_asks_for_nats_before_connecting_is_told_so() -> None:
    with pytest.raises(RuntimeError, match="not connected"):
        await Broker("nats://127.0.0.1:9").ready()


@pytest.mark.parametrize(
    "url",
    ["", "nats://127.0.0.1:none", "nats://:4222", "nats://a:4222,", "nats://a,ws://b", "nats://a:99999"],
)
def test_a_url_that_nats_cannot_have_is_refused_at_once(url: str) -> None:
    with pytest.raises(ValueError, match="not a list of NATS URLs"):
        Broker(url)


@pytest.mark.parametrize(
    "url", ["nats", "nats:4222", "tls://me:secret@nats", "nats://a,b:4333", "wss://a,ws://b"]
)
def test_a_url_may_leave_out_what_nats_can_guess(url: str) -> None:
    Broker(url)


def test_a_refused_url_does_not_tell_its_password() -> None:
    with pytest.raises(ValueError, match="not a list of NATS URLs") as refused:
        Broker("nats://me:secret@nats:none")
    assert "secret" not in str(refused.value)


def test_who_gives_up_before_nats_is_there_leaves_nothing_running() -> None:
    async def give_up() -> set[asyncio.Task[Any]]:
        async with Broker("nats://127.0.0.1:9"):
            await asyncio.sleep(0)  # the attempt begins
        return asyncio.all_tasks() - {asyncio.current_task()}

    # On a loop of its own, where no server of another test begins or ends a task meanwhile.
    assert asyncio.run(give_up()) == set()


def test_revocations_are_forgotten_when_no_token_can_be_left() -> None:
    revocations = Revocations()
    revocations.revoke("u1", ["s1"], time.time() - 2000)
    revocations.revoke("u2", [], time.time() - 2000)
    revocations.revoke("u3", [], time.time())
    assert not revocations.covers("u1", "s1", 0)
    assert not revocations.covers("u2", "s2", 0)
    assert revocations.covers("u3", "s3", 0)


def test_a_revocation_that_is_heard_again_holds_up_the_forgetting_of_none() -> None:
    revocations, now = Revocations(), time.time()
    revocations.revoke("u1", ["s1"], now - 890)
    revocations.revoke("u2", ["s2"], now - 2000)
    revocations.revoke("u1", ["s1"], now)
    revocations.revoke("u3", ["s3"], now)
    assert revocations.covers("u1", "s1", 0)
    assert not revocations.covers("u2", "s2", 0)


def test_an_earlier_revocation_that_is_heard_late_takes_nothing_back() -> None:
    revocations, now = Revocations(), time.time()
    revocations.revoke("u1", [], now)
    revocations.revoke("u1", [], now - 60)
    assert revocations.covers("u1", "s1", now - 30)
    assert not revocations.covers("u1", "s1", now + 1)


def test_a_revocation_costs_the_same_however_many_there_are() -> None:
    def cost(count: int) -> float:
        revocations, now, began = Revocations(), time.time(), time.process_time()
        for number in range(count):
            revocations.revoke("u1", [f"s{number}"], now)
        return time.process_time() - began

    # 16 times as many: 16 times the work when each costs the same, 256 times when each looks at all before it.
    assert cost(16_000) < 64 * cost(1_000)
