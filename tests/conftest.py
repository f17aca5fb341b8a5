"""Real parts for tests, each started when the first test asks for it and stopped at the end of the run."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable

import psycopg
import pytest
import uvloop
from psycopg import sql

from tests import parts
from tests.mesh import Mesh, running_mesh

# The event loop that services run on.
asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())


@pytest.fixture(scope="session")
async def postgres_url(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """The superuser's URL of an embedded PostgreSQL: `postgresql://postgres:…@127.0.0.1:…/postgres`."""
    async with parts.running_postgres(tmp_path_factory.mktemp("postgres")) as url:
        yield url


@pytest.fixture(scope="session")
async def nats_url(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """The URL of an embedded NATS with JetStream."""
    async with parts.running_nats(tmp_path_factory.mktemp("nats")) as url:
        yield url


@pytest.fixture(scope="session")
async def valkey_url(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """The URL of an embedded Valkey."""
    async with parts.running_valkey(tmp_path_factory.mktemp("valkey")) as url:
        yield url


@pytest.fixture
async def database_url(postgres_url: str) -> AsyncIterator[str]:
    """The superuser's URL of a database that is new for this test and dropped after it."""
    name = f"test_{secrets.token_hex(6)}"
    await _administer(postgres_url, "CREATE DATABASE {}", name)
    yield postgres_url.rsplit("/", 1)[0] + f"/{name}"
    await _administer(postgres_url, "DROP DATABASE {} WITH (FORCE)", name)


@pytest.fixture(scope="session")
async def new_database(postgres_url: str) -> Callable[[], Awaitable[str]]:
    """Makes another empty database and gives the superuser's URL of it; it goes with the server."""

    async def create() -> str:
        name = f"test_{secrets.token_hex(6)}"
        await _administer(postgres_url, "CREATE DATABASE {}", name)
        return postgres_url.rsplit("/", 1)[0] + f"/{name}"

    return create


async def _administer(url: str, statement: str, name: str) -> None:
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        await connection.execute(sql.SQL(statement).format(sql.Identifier(name)))


@pytest.fixture(scope="session")
async def mesh(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Mesh]:
    """A whole mesh on free ports, shared by all tests that ask for it; see tests/mesh.py."""
    async with running_mesh(tmp_path_factory.mktemp("mesh")) as running:
        yield running
