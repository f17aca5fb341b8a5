"""Where the keys of tokens come from, and how long a verified token is remembered."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
from joserfc.jwk import ECKey

from chassis.core import Unavailable
from chassis.trust import FetchedKeys, Revocations, TokenVerifier, keys
from tests.unit.chassis.stand import KEY, Keys, token


class Published:
    """What identity publishes, and how often it was asked."""

    def __init__(self) -> None:
        self.keys: list[dict[str, Any]] = [published(KEY, "one")]
        self.asked = 0
        self.away = False
        self._answered = asyncio.Condition()

    async def fetch(self) -> Iterable[Mapping[str, Any]]:
        self.asked += 1
        async with self._answered:
            self._answered.notify_all()
        await asyncio.sleep(0)
        if self.away:
            raise ConnectionError
        return self.keys

    async def asked_once_more(self) -> None:
        async with self._answered:
            await self._answered.wait()


def published(key: ECKey, kid: str) -> dict[str, Any]:
    return {**key.as_dict(private=False), "kid": kid, "alg": "ES256", "use": "sig"}


@asynccontextmanager
async def fetching(identity: Published) -> AsyncIterator[FetchedKeys]:
    """Keys that are kept fresh, as beside a server."""
    fetched = FetchedKeys(identity.fetch)
    running = asyncio.create_task(fetched.run())
    try:
        yield fetched
    finally:
        running.cancel()
        await asyncio.wait([running])


async def test_keys_are_fetched_once_for_all_who_ask() -> None:
    identity = Published()
    async with fetching(identity) as fetched:
        found = await asyncio.gather(*(fetched.key("one") for _ in range(20)))
    assert all(key is not None for key in found)
    assert identity.asked == 1


async def test_an_unknown_key_is_asked_for_but_not_by_every_forger() -> None:
    identity = Published()
    async with fetching(identity) as fetched:
        for _ in range(50):
            assert await fetched.key("forged") is None
    assert identity.asked == 1


async def test_a_new_key_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "UNKNOWN_KEY_SECONDS", 0.0)
    identity = Published()
    async with fetching(identity) as fetched:
        assert await fetched.key("one")
        identity.keys.append(published(ECKey.generate_key("P-256"), "two"))
        assert await fetched.key("two")


async def test_keys_are_fetched_again_without_anybody_asking(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "REFRESH_SECONDS", 0.0)
    identity = Published()
    async with fetching(identity), asyncio.timeout(5):
        await identity.asked_once_more()
        await identity.asked_once_more()


async def test_known_keys_stay_good_while_identity_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "REFRESH_SECONDS", 0.0)
    monkeypatch.setattr(keys, "UNKNOWN_KEY_SECONDS", 0.0)
    identity = Published()
    async with fetching(identity) as fetched:
        assert await fetched.key("one")
        identity.away = True
        await identity.asked_once_more()
        await identity.asked_once_more()
        assert await fetched.key("one")


async def test_a_failure_is_remembered_and_asks_identity_no_more_than_a_success(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(keys, "FIRST_RETRY_SECONDS", 60.0)
    identity = Published()
    identity.away = True
    async with fetching(identity) as fetched:
        for _ in range(20):
            with pytest.raises(Unavailable):
                await fetched.key("one")
    assert identity.asked == 1


async def test_a_fetch_that_hangs_ends_by_itself_and_counts_as_a_failure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(keys, "FETCH_SECONDS", 0.01)
    identity = Published()
    monkeypatch.setattr(identity, "fetch", asyncio.Event().wait)
    async with fetching(identity) as fetched, asyncio.timeout(5):
        with pytest.raises(Unavailable):
            await fetched.key("one")


async def test_keys_are_there_again_when_identity_is_though_nobody_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(keys, "FIRST_RETRY_SECONDS", 0.0)
    monkeypatch.setattr(keys, "REFRESH_SECONDS", 0.0)
    identity = Published()
    identity.away = True
    async with fetching(identity) as fetched:
        with pytest.raises(Unavailable):
            await fetched.key("one")
        identity.away = False
        await identity.asked_once_more()
        await identity.asked_once_more()
        assert await fetched.key("one")


async def test_a_service_that_starts_before_identity_has_its_keys_soon_after_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(keys, "RETRY_SECONDS", 60.0)
    monkeypatch.setattr(keys, "REFRESH_SECONDS", 0.0)
    identity = Published()
    identity.away = True
    async with fetching(identity) as fetched, asyncio.timeout(5):
        with pytest.raises(Unavailable):
            await fetched.key("one")
        identity.away = False
        await identity.asked_once_more()
        await identity.asked_once_more()
        assert await fetched.key("one")


async def test_a_caller_who_gives_up_does_not_end_the_fetch_for_the_others() -> None:
    identity = Published()
    async with fetching(identity) as fetched:
        impatient, patient = (asyncio.create_task(fetched.key("one")) for _ in range(2))
        await asyncio.sleep(0)
        impatient.cancel()
        assert await patient
    assert identity.asked == 1


async def test_a_key_of_another_kind_is_not_taken() -> None:
    identity = Published()
    identity.keys = [published(ECKey.generate_key("P-384"), "one")]
    async with fetching(identity) as fetched:
        assert await fetched.key("one") is None


def verifier(revocations: Revocations, remembered: int) -> TokenVerifier:
    return TokenVerifier(Keys(), revocations, issuer="protomesh", audience="protomesh", remembered=remembered)


async def test_of_more_tokens_than_are_remembered_the_one_seen_longest_ago_goes() -> None:
    tokens = verifier(Revocations(), remembered=2)
    one, two, three = (token(jti=str(number)) for number in range(3))
    await tokens.verify(one)
    await tokens.verify(two)
    assert tokens.known(one)
    await tokens.verify(three)
    assert [tokens.known(text) is not None for text in (one, two, three)] == [True, False, True]


async def test_a_remembered_token_ends_with_its_session() -> None:
    revocations = Revocations()
    tokens = verifier(revocations, remembered=2)
    ended, other = token(sid="ended"), token(sid="other")
    for text in (ended, other):
        await tokens.verify(text)
    revocations.revoke("11111111-1111-7111-8111-111111111111", ["ended"], time.time())
    assert tokens.known(ended) is None
    assert tokens.known(other)


async def test_a_remembered_token_ends_when_it_expires(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = verifier(Revocations(), remembered=2)
    text = token()
    principal = await tokens.verify(text)
    monkeypatch.setattr(time, "time", lambda: principal.expires_at)
    assert tokens.known(text) is None
