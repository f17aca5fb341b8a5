"""Signing keys on a real database; only the time is made up."""

import asyncio
from datetime import timedelta

import pytest
from cryptography.exceptions import InvalidTag

from chassis.data import Database
from services.identity import model, repository
from services.identity.settings import IdentitySettings
from services.identity.signing_keys import KeyRing
from tests.service.identity.clock import Clock


def settings(secret: str = "s" * 32) -> IdentitySettings:
    return IdentitySettings(key_encryption_secret=secret, signing_key_days=30, key_publication_seconds=900)


async def test_replicas_that_start_together_agree_on_one_key(database: Database) -> None:
    replicas = [KeyRing(database, settings()) for _ in range(5)]
    await asyncio.gather(*(replica.refresh() for replica in replicas))
    assert len({replica.signer().kid for replica in replicas}) == 1
    assert {len(replica.published()) for replica in replicas} == {1}


async def test_a_new_key_is_published_before_it_signs(database: Database, clock: Clock) -> None:
    ring = KeyRing(database, settings())
    await ring.refresh()
    first = ring.signer()
    await ring.rotate()
    assert len(ring.published()) == 2
    assert ring.signer() == first
    clock.ahead = timedelta(seconds=901)
    assert ring.signer() != first
    assert first in ring.published()


async def test_a_key_that_waits_for_its_time_is_not_followed_by_another(database: Database) -> None:
    ring = KeyRing(database, settings())
    await ring.refresh()
    assert (await ring.rotate()).kid == (await ring.rotate()).kid
    assert len(ring.published()) == 2


async def test_keys_rotate_by_themselves(database: Database, clock: Clock) -> None:
    replicas = [KeyRing(database, settings()) for _ in range(3)]
    await asyncio.gather(*(replica.refresh() for replica in replicas))
    clock.ahead = timedelta(days=30)
    await asyncio.gather(*(replica.refresh() for replica in replicas))
    assert {len(replica.published()) for replica in replicas} == {2}


async def test_an_old_key_goes_when_no_token_of_it_can_live(database: Database) -> None:
    ring = KeyRing(database, settings())
    await ring.refresh()
    await ring.rotate()
    async with database.unit_of_work() as work:
        keys = sorted(await repository.lock_signing_keys(work), key=lambda key: key.signs_from)
        assert keys[0].expires_at == keys[1].signs_from + timedelta(minutes=10, seconds=900)
        keys[0].expires_at = model.now()
    await ring.refresh()
    assert [key.kid for key in ring.published()] == [str(keys[1].id)]


async def test_private_keys_are_unreadable_without_the_secret(database: Database) -> None:
    await KeyRing(database, settings()).refresh()
    row = await database.one(repository.PUBLISHED_KEYS)
    assert row is not None
    assert b"PRIVATE" not in bytes(row.private_key)
    with pytest.raises(InvalidTag):
        await KeyRing(database, settings("another secret, 32 characters or more")).refresh()
