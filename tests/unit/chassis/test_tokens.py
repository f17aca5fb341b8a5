"""Where the keys of tokens come from, and how revocations arrive."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any

import pytest
from google.protobuf import message_factory
from google.protobuf.descriptor_pool import Default
from joserfc.jwk import ECKey

from chassis.events import Broker, RevocationFeed
from chassis.trust import FetchedKeys, Revocations, tokens
from tests.unit.chassis.stand import KEY


class Published:
    """What identity publishes, and how often it was asked."""

    def __init__(self) -> None:
        self.keys: list[dict[str, Any]] = [published(KEY, "one")]
        self.asked = 0
        self.away = False

    async def fetch(self) -> Iterable[Mapping[str, Any]]:
        self.asked += 1
        await asyncio.sleep(0)
        if self.away:
            raise ConnectionError
        return self.keys


def published(key: ECKey, kid: str) -> dict[str, Any]:
    return {**key.as_dict(private=False), "kid": kid, "alg": "ES256", "use": "sig"}


async def test_keys_are_fetched_once_for_all_who_ask() -> None:
    identity = Published()
    keys = FetchedKeys(identity.fetch)
    found = await asyncio.gather(*(keys.key("one") for _ in range(20)))
    assert all(key is not None for key in found)
    assert identity.asked == 1


async def test_an_unknown_key_is_asked_for_but_not_by_every_forger() -> None:
    identity = Published()
    keys = FetchedKeys(identity.fetch)
    for _ in range(50):
        assert await keys.key("forged") is None
    assert identity.asked == 1


async def test_a_new_key_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    identity = Published()
    keys = FetchedKeys(identity.fetch)
    assert await keys.key("one")
    identity.keys.append(published(ECKey.generate_key("P-256"), "two"))
    monkeypatch.setattr(tokens, "_UNKNOWN_KEY_SECONDS", 0.0)
    assert await keys.key("two")


async def test_known_keys_stay_good_while_identity_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    identity = Published()
    keys = FetchedKeys(identity.fetch)
    assert await keys.key("one")
    identity.away = True
    monkeypatch.setattr(tokens, "_REFRESH_SECONDS", 0.0)
    assert await keys.key("one")


async def test_without_any_answer_there_is_no_verdict() -> None:
    identity = Published()
    identity.away = True
    with pytest.raises(ConnectionError):
        await FetchedKeys(identity.fetch).key("one")


async def test_a_key_of_another_kind_is_not_taken() -> None:
    identity = Published()
    identity.keys = [published(ECKey.generate_key("P-384"), "one")]
    assert await FetchedKeys(identity.fetch).key("one") is None


@pytest.fixture
async def broker(nats_url: str) -> AsyncIterator[Broker]:
    async with Broker(nats_url) as connected:
        yield connected


def listening(revocations: Revocations) -> asyncio.Event:
    heard = asyncio.Event()
    revocations.on_revoked(lambda _: heard.set())
    return heard


async def test_a_revocation_arrives_within_moments_and_is_known_to_who_starts_later(broker: Broker) -> None:
    event_class = message_factory.GetMessageClass(
        Default().FindMessageTypeByName("protomesh.identity.v1.SessionsRevoked")
    )
    event: Any = event_class(user_id="u1", session_ids=["s1"])
    event.revoked_at.GetCurrentTime()
    early, late = Revocations(), Revocations()
    heard = {early: listening(early), late: listening(late)}
    following = [asyncio.create_task(RevocationFeed(early).follow(broker))]
    await broker.publish("IDENTITY", "identity.sessions.revoked.v1.u1", event.SerializeToString(), {})
    await asyncio.wait_for(heard[early].wait(), 5)
    following.append(asyncio.create_task(RevocationFeed(late).follow(broker)))
    await asyncio.wait_for(heard[late].wait(), 5)
    for task in following:
        task.cancel()
    await asyncio.gather(*following, return_exceptions=True)
    assert early.covers("u1", "s1", time.time())
    assert late.covers("u1", "s1", time.time())
    assert not late.covers("u1", "s2", time.time())


def test_revocations_are_forgotten_when_no_token_can_be_left(monkeypatch: pytest.MonkeyPatch) -> None:
    revocations = Revocations()
    revocations.revoke("u1", ["s1"], time.time() - 2000)
    assert revocations.covers("u1", "s1", 0)
    revocations.revoke("u2", [], time.time())
    assert not revocations.covers("u1", "s1", 0)
