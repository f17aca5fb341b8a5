"""A fresh database with the chassis's tables, and a broker, for each test."""

import asyncio
import secrets
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import TypeVar

import nats.js.errors
import pytest

from chassis.contract import DEAD_LETTERS
from chassis.data import Database, migrations
from chassis.events import Broker, Consumer, Relay
from tests.service.chassis.keyed_shop import Shop
from tests.service.chassis.subscriber import Subscriber
from tests.service.chassis.things import MIGRATIONS

Part = TypeVar("Part", Relay, Consumer)


@pytest.fixture
async def migrated_url(database_url: str) -> str:
    await asyncio.to_thread(migrations.upgrade, "things", database_url, MIGRATIONS)
    return database_url


@pytest.fixture
async def database(migrated_url: str) -> AsyncIterator[Database]:
    async with Database(migrated_url, name="things", cursor_secret="a secret for tests") as opened:
        yield opened


@pytest.fixture
async def broker(nats_url: str) -> AsyncIterator[Broker]:
    """A connection to NATS without any stream."""
    async with Broker(nats_url) as connected:
        jetstream = await connected.ready()
        for stream in ("ORDERING", DEAD_LETTERS):
            with suppress(nats.js.errors.NotFoundError):
                await jetstream.delete_stream(stream)
        yield connected


@pytest.fixture
async def relay(database: Database, broker: Broker) -> AsyncIterator[Relay]:
    async with running(Relay(database, broker, "ordering")) as started:
        yield started


@pytest.fixture
def subscriber(database: Database, broker: Broker) -> Subscriber:
    return Subscriber(database, broker, f"things.{uuid.uuid4().hex[:8]}")


@pytest.fixture
async def consumer(subscriber: Subscriber) -> AsyncIterator[Consumer]:
    async with running(subscriber.consumer()) as started:
        yield started


@pytest.fixture
async def shop(database: Database) -> Shop:
    return Shop(database)


@pytest.fixture
def key() -> str:
    return secrets.token_hex(16)


@asynccontextmanager
async def running(part: Part) -> AsyncIterator[Part]:
    """A relay or a consumer at work; cancelled, as at a drain, at the end."""
    task = asyncio.create_task(part.run())
    try:
        yield part
    finally:
        task.cancel()
        await asyncio.wait([task])


@pytest.fixture
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """An event that an outage interrupted comes again soon."""
    monkeypatch.setattr("chassis.events.processor._FIRST_OUTAGE_SECONDS", 0.02)
    monkeypatch.setattr("chassis.events.processor._LONGEST_OUTAGE_SECONDS", 0.1)
