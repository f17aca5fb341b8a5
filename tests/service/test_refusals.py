"""A refusal stands for a constraint that is there: a migration that renames one takes its refusal along."""

import asyncio
import importlib
from collections.abc import Awaitable, Callable

import psycopg
import pytest

from chassis.data import Refusals, upgrade
from meshctl.core.deployables import with_database

_NAMES = "SELECT conname FROM pg_constraint UNION SELECT relname FROM pg_class WHERE relkind = 'i'"


@pytest.mark.parametrize("service", with_database())
async def test_every_declared_constraint_exists(service: str, new_database: Callable[[], Awaitable[str]]):
    repository = vars(importlib.import_module(f"services.{service}.repository"))
    declared = {
        constraint
        for refusals in repository.values()
        if isinstance(refusals, Refusals)
        for constraint in refusals.by_constraint
    }
    url = await new_database()
    await asyncio.to_thread(upgrade, service, url)
    async with await psycopg.AsyncConnection.connect(url) as connection:
        found = await connection.execute(_NAMES)
        existing = {name for (name,) in await found.fetchall()}
    assert declared <= existing
