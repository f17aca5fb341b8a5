"""A refusal stands for a constraint that is there: a migration that renames one takes its refusal along."""

import asyncio
import importlib
import pkgutil
from collections.abc import Awaitable, Callable, Iterator
from types import ModuleType

import psycopg
import pytest

from chassis.data import Refusals, upgrade
from meshctl.core.deployables import with_database

_NAMES = "SELECT conname FROM pg_constraint UNION SELECT relname FROM pg_class WHERE relkind = 'i'"


def modules_of(service: str) -> Iterator[ModuleType]:
    package = importlib.import_module(f"services.{service}")
    for found in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        if not found.ispkg and not found.name.endswith("__main__"):
            yield importlib.import_module(found.name)


@pytest.mark.parametrize("service", with_database())
async def test_every_declared_constraint_exists(service: str, new_database: Callable[[], Awaitable[str]]):
    declared = {
        constraint
        for module in modules_of(service)
        for refusals in vars(module).values()
        if isinstance(refusals, Refusals)
        for constraint in refusals.by_constraint
    }
    url = await new_database()
    await asyncio.to_thread(upgrade, service, url)
    async with await psycopg.AsyncConnection.connect(url) as connection:
        found = await connection.execute(_NAMES)
        existing = {name for (name,) in await found.fetchall()}
    assert declared <= existing
