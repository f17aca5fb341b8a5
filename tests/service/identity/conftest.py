"""A database of identity's own, and a clock that tests set."""

import asyncio
import pathlib
from collections.abc import AsyncIterator

import pytest

from chassis.data import Database, migrations
from services.identity import model, sessions, signing_keys
from tests.service.identity.clock import Clock
from tests.service.identity.stand import Identity, running_identity


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """What identity takes for the present."""
    made_up = Clock()
    for module in (model, sessions, signing_keys):
        monkeypatch.setattr(module, "now", made_up)
    return made_up


@pytest.fixture
async def migrated_url(database_url: str) -> str:
    """A database as identity has it when it starts for the first time."""
    await asyncio.to_thread(migrations.upgrade, "identity", database_url)
    return database_url


@pytest.fixture
async def database(migrated_url: str) -> AsyncIterator[Database]:
    async with Database(migrated_url) as opened:
        yield opened


@pytest.fixture
async def identity(migrated_url: str, tmp_path: pathlib.Path) -> AsyncIterator[Identity]:
    """Identity by itself, without edge and broker."""
    async with running_identity(migrated_url, tmp_path) as running:
        yield running
