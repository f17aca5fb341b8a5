"""The first administrator, on a real database."""

import asyncio

from pydantic import SecretStr

from chassis.data import Database
from services.identity import bootstrap, repository
from services.identity.hashing import HashingPool
from services.identity.login_limits import LoginLimits
from services.identity.passwords import Passwords
from services.identity.settings import IdentitySettings

EMAIL = "admin@example.org"


def settings(password: str = "the first password") -> IdentitySettings:
    return IdentitySettings(
        key_encryption_secret="s" * 32,
        bootstrap_admin_email=EMAIL.upper(),
        bootstrap_admin_password=SecretStr(password),
    )


def passwords() -> Passwords:
    return Passwords(HashingPool(2, 8), LoginLimits("", "100/minute", "100/minute"))


async def test_replicas_that_start_together_make_one_administrator(database: Database) -> None:
    starts = (bootstrap.ensure_administrator(database, passwords(), settings()) for _ in range(5))
    await asyncio.gather(*starts)
    page = await repository.ACCOUNTS.fetch(database, _All())
    assert [(row.email, row.role) for row in page.rows] == [(EMAIL, "admin")]


async def test_an_account_that_is_there_is_left_as_it_is(database: Database) -> None:
    await bootstrap.ensure_administrator(database, passwords(), settings())
    before = await database.one(repository.CREDENTIALS_BY_EMAIL, email=EMAIL)
    await bootstrap.ensure_administrator(database, passwords(), settings("another password"))
    assert await database.one(repository.CREDENTIALS_BY_EMAIL, email=EMAIL) == before


class _All:
    """A request for the whole list."""

    page, limit, cursor = 0, 0, ""
