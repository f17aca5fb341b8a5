"""How long sessions and refresh tokens live, on a real database; only the time is made up."""

import asyncio
from datetime import timedelta
from uuid import UUID

import pytest
from protomesh.identity.v1.auth_service_pb2 import TokenGrant

from chassis.core import Unauthenticated, uuid7
from chassis.data import Database
from services.identity import expiry, repository
from services.identity.model import User, now
from services.identity.sessions import Sessions
from services.identity.settings import IdentitySettings
from services.identity.signing_keys import KeyRing
from tests.service.identity.clock import Clock


@pytest.fixture
async def sessions(database: Database, clock: Clock) -> Sessions:
    settings = IdentitySettings(key_encryption_secret="s" * 32)
    keys = KeyRing(database, settings)
    await keys.refresh()
    return Sessions(keys, settings)


async def start(database: Database, sessions: Sessions) -> TokenGrant:
    """A session of a new user."""
    user_id = uuid7()
    async with database.unit_of_work() as work:
        work.add(User.register(user_id, f"u{user_id.hex}", f"{user_id.hex}@example.org", "no hash"))
    grant = await sessions.start(database, user_id, "no hash")
    assert grant
    return grant


async def refresh(database: Database, sessions: Sessions, grant: TokenGrant) -> TokenGrant | None:
    async with database.unit_of_work() as work:
        return await sessions.carry_on(work, grant.refresh_token)


async def test_no_session_starts_on_what_was_checked_before_a_change(
    database: Database, sessions: Sessions
) -> None:
    user_id = uuid7()
    async with database.unit_of_work() as work:
        user = User.register(user_id, f"u{user_id.hex}", f"{user_id.hex}@example.org", "the old hash")
        work.add(user)
    assert await sessions.start(database, user_id, "the old hash")
    async with database.unit_of_work() as work:
        (await repository.lock_user(work, user_id)).change(password_hash="the new hash")
    assert await sessions.start(database, user_id, "the old hash") is None
    assert await sessions.start(database, user_id, "the new hash")
    async with database.unit_of_work() as work:
        (await repository.lock_user(work, user_id)).change(disabled_at=now())
    assert await sessions.start(database, user_id, "the new hash") is None


async def test_a_sign_in_waits_for_a_revocation_and_then_finds_the_account_disabled(
    database: Database, sessions: Sessions
) -> None:
    user_id = uuid7()
    async with database.unit_of_work() as work:
        work.add(User.register(user_id, f"u{user_id.hex}", f"{user_id.hex}@example.org", "no hash"))
    async with database.unit_of_work() as work:
        user = await repository.lock_user(work, user_id)
        starting = asyncio.create_task(sessions.start(database, user_id, "no hash"))
        await asyncio.sleep(0.1)
        assert not starting.done()
        user.change(disabled_at=now())
    assert await starting is None


async def test_a_session_that_nobody_refreshes_ends_after_14_days(
    database: Database, sessions: Sessions, clock: Clock
) -> None:
    kept, left = await start(database, sessions), await start(database, sessions)
    clock.ahead = timedelta(days=13, hours=23)
    assert await refresh(database, sessions, kept)
    clock.ahead = timedelta(days=14, hours=1)
    with pytest.raises(Unauthenticated, match="REFRESH_TOKEN_INVALID"):
        await refresh(database, sessions, left)


async def test_a_session_ends_after_30_days_however_often_it_is_refreshed(
    database: Database, sessions: Sessions, clock: Clock
) -> None:
    grant: TokenGrant | None = await start(database, sessions)
    for days in (10, 20, 29):
        clock.ahead = timedelta(days=days)
        assert grant
        grant = await refresh(database, sessions, grant)
    clock.ahead = timedelta(days=30, hours=1)
    assert grant
    with pytest.raises(Unauthenticated, match="REFRESH_TOKEN_INVALID"):
        await refresh(database, sessions, grant)


async def test_sessions_whose_time_is_over_are_deleted_with_their_tokens(
    database: Database, sessions: Sessions, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repository, "now", clock)
    await start(database, sessions)
    assert await expiry.delete_batch(database) == 0
    clock.ahead = timedelta(days=31)
    assert await expiry.delete_batch(database) == 1
    async with database.connection() as connection:
        counted = await connection.execute("SELECT count(*) FROM refresh_tokens")
        assert await counted.fetchone() == (0,)


async def test_refresh_tokens_are_kept_as_hashes(database: Database, sessions: Sessions) -> None:
    grant = await start(database, sessions)
    async with database.connection() as connection:
        rows = await (await connection.execute("SELECT id, token_hash FROM refresh_tokens")).fetchall()
    assert [(type(row[0]), len(bytes(row[1]))) for row in rows] == [(UUID, 32)]
    assert grant.refresh_token.encode() not in bytes(rows[0][1])
