"""A database of identity's own, and a clock that tests set."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from chassis.data import Database, migrations
from services.identity import model, sessions, signing_keys
from tests.service.identity.clock import Clock


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """What identity takes for the present."""
    made_up = Clock()
    for module in (model, sessions, signing_keys):
        monkeypatch.setattr(module, "now", made_up)
    return made_up


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """A database as identity has it when it starts for the first time."""
    await asyncio.to_thread(migrations.upgrade, "identity", database_url)
    async with Database(database_url) as opened:
        yield opened
