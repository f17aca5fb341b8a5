"""The users of NATS and Valkey: what a service that was taken over can do to the others there."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import nats
import nats.errors
import pytest
from nats.aio.client import Client
from redis.asyncio import Redis
from redis.exceptions import AuthenticationError, NoPermissionError

from chassis.contract import all_event_types
from meshctl.core import deployables, service_settings
from tests.mesh import Mesh

DEPLOYABLES = deployables.deployables()
SETTLED_SECONDS = 1.0
WITH_VALKEY = service_settings.with_valkey()


def own_url(mesh: Mesh, url: str, part: str, user: str) -> str:
    """The URL of a part for another user of the mesh."""
    parts = urlsplit(url)
    password = mesh.folder.secrets().get(f"{part}.{user}")
    return parts._replace(netloc=f"{user}:{password}@{parts.hostname}:{parts.port}").geturl()


class Connection:
    """A connection to NATS as a service, and what NATS refused on it."""

    def __init__(self, client: Client, refusals: "asyncio.Queue[str]") -> None:
        self.client = client
        self._refusals = refusals

    async def is_refused(self, subject: str, payload: bytes = b"") -> bool:
        """Whether a message on a subject is refused by the user's permissions."""
        await self.client.publish(subject, payload, reply=self.client.new_inbox())
        return await self._was_refused("publish", subject)

    async def may_not_hear(self, subject: str) -> bool:
        await self.client.subscribe(subject)
        return await self._was_refused("subscription", subject)

    async def _was_refused(self, what: str, subject: str) -> bool:
        await self.client.flush()
        wanted = f'permissions violation for {what} to "{subject}"'.lower()
        with contextlib.suppress(TimeoutError):
            # NATS sends a refusal apart from the answer to a flush.
            async with asyncio.timeout(SETTLED_SECONDS):
                while True:
                    if wanted in await self._refusals.get():
                        return True
        return False


Connect = Callable[[str], Awaitable[Connection]]


@asynccontextmanager
async def connections(mesh: Mesh) -> AsyncIterator[Connect]:
    opened: list[Client] = []

    async def connect(service: str) -> Connection:
        refusals: asyncio.Queue[str] = asyncio.Queue()

        async def note(error: Exception) -> None:
            refusals.put_nowait(str(error).lower())

        client = await nats.connect(
            own_url(mesh, mesh.nats_url, "nats", service),
            inbox_prefix=f"_INBOX_{service}",
            error_cb=note,
            allow_reconnect=False,
        )
        opened.append(client)
        return Connection(client, refusals)

    try:
        yield connect
    finally:
        for client in opened:
            await client.close()


@pytest.fixture
async def connect(mesh: Mesh) -> AsyncIterator[Connect]:
    async with connections(mesh) as made:
        yield made


@pytest.mark.parametrize("service", DEPLOYABLES)
async def test_a_service_does_not_publish_what_is_anothers_to_say(connect: Connect, service: str) -> None:
    connection = await connect(service)
    for kind in all_event_types().values():
        if kind.stream != service.upper():
            assert await connection.is_refused(f"{kind.subject}.0"), kind.name


@pytest.mark.parametrize("service", DEPLOYABLES)
@pytest.mark.parametrize("verb", ["UPDATE", "DELETE", "PURGE", "MSG.DELETE", "CREATE"])
async def test_no_service_changes_the_stream_of_another(connect: Connect, service: str, verb: str) -> None:
    connection = await connect(service)
    for stream in {kind.stream for kind in all_event_types().values()} - {service.upper()}:
        assert await connection.is_refused(f"$JS.API.STREAM.{verb}.{stream}"), stream


@pytest.mark.parametrize("service", DEPLOYABLES)
async def test_a_service_receives_the_events_whose_contracts_list_it(connect: Connect, service: str) -> None:
    connection = await connect(service)
    for kind in all_event_types().values():
        listed = {"*", service} & {name.partition(".")[0] for name in kind.subscribers}
        heard = not await connection.may_not_hear(kind.filter)
        assert heard == bool(listed or kind.stream == service.upper()), kind.name


@pytest.mark.parametrize(
    "subject",
    [
        "$JS.API.CONSUMER.CREATE.ORDERING",
        "$JS.API.CONSUMER.CREATE.ORDERING.projects-spy",
        "$JS.API.CONSUMER.CREATE.ORDERING.catalog-release_stock",
        "$JS.API.CONSUMER.DURABLE.CREATE.ORDERING.catalog-release_stock",
        "$JS.API.CONSUMER.DELETE.ORDERING.catalog-release_stock",
        "$JS.API.CONSUMER.MSG.NEXT.ORDERING.catalog-release_stock",
        "$JS.ACK.ORDERING.catalog-release_stock.1.1.1.1.0",
        "$JS.API.STREAM.MSG.GET.ORDERING",
        "$JS.API.DIRECT.GET.ORDERING",
        # Who may receive revocations may not receive what else identity publishes.
        "$JS.API.CONSUMER.CREATE.IDENTITY",
        "$JS.API.CONSUMER.CREATE.IDENTITY.projects-spy",
        "$JS.API.CONSUMER.CREATE.IDENTITY.projects-spy.identity.user.updated.v1.*",
        "$JS.API.STREAM.MSG.GET.IDENTITY",
        "$JS.API.STREAM.MSG.DELETE.DEAD_LETTERS",
        "dead.catalog.release_stock",
        "_mesh.outbox.ordering",
        "_INBOX_ordering.0",
        # A push consumer on a stream of one's own could deliver its own words to any subject.
        "$JS.API.CONSUMER.CREATE.PROJECTS",
        "$JS.API.CONSUMER.CREATE.PROJECTS.projects-own",
        "$JS.API.STREAM.UPDATE.PROJECTS",
        "$JS.API.STREAM.NAMES",
    ],
)
async def test_projects_may_not(connect: Connect, subject: str) -> None:
    assert await (await connect("projects")).is_refused(subject, json.dumps({}).encode())


@pytest.mark.parametrize(
    "subject", ["_INBOX_ordering.>", "_INBOX.>", ">", "$JS.API.>", "_mesh.outbox.ordering"]
)
async def test_projects_may_not_hear(connect: Connect, subject: str) -> None:
    assert await (await connect("projects")).may_not_hear(subject)


async def test_nobody_comes_in_without_a_user(mesh: Mesh) -> None:
    address = urlsplit(mesh.nats_url)
    with pytest.raises((nats.errors.Error, OSError)):
        await nats.connect(
            f"nats://{address.hostname}:{address.port}", allow_reconnect=False, max_reconnect_attempts=0
        )


@asynccontextmanager
async def valkey(url: str) -> AsyncIterator[Any]:
    client: Any = Redis.from_url(url)
    async with client:
        yield client


@pytest.mark.parametrize("service", WITH_VALKEY)
async def test_a_service_has_its_own_keys_and_no_others(mesh: Mesh, service: str) -> None:
    (other, *_) = (name for name in [*WITH_VALKEY, "elsewhere"] if name != service)
    async with valkey(own_url(mesh, mesh.valkey_url, "valkey", service)) as client:
        key = f"{service}:test"
        await client.set(key, 1, ex=60)
        assert await client.get(key) == b"1"
        await client.delete(key)
        for command in (
            *(("GET", f"{other}:test"), ("SET", f"{other}:test", 1), ("DEL", f"{other}:test")),
            *(("COPY", f"{other}:test", key), ("KEYS", "*"), ("SCAN", 0), ("RANDOMKEY",), ("DBSIZE",)),
            *(("FLUSHALL",), ("FLUSHDB",), ("CONFIG", "GET", "*"), ("CONFIG", "SET", "maxmemory", 1)),
            *(
                ("ACL", "LIST"),
                ("ACL", "SETUSER", service, "+@all"),
                ("CLIENT", "LIST"),
                ("MONITOR",),
                ("INFO",),
            ),
            *(
                ("EVAL", "return 1", 0),
                ("PUBLISH", "x", "y"),
                ("SHUTDOWN",),
                ("SAVE",),
            ),
            *(("REPLICAOF", "127.0.0.1", 1), ("SORT", key, "BY", f"{other}:*", "GET", f"{other}:*")),
        ):
            with pytest.raises(NoPermissionError):
                await client.execute_command(*command)


async def test_valkey_has_no_default_user(mesh: Mesh) -> None:
    address = urlsplit(mesh.valkey_url)
    async with valkey(f"redis://{address.hostname}:{address.port}") as client:
        with pytest.raises(AuthenticationError):
            await client.get("x")


async def test_a_service_without_use_for_valkey_has_no_user_there(mesh: Mesh) -> None:
    for service in set(DEPLOYABLES) - set(WITH_VALKEY):
        async with valkey(own_url(mesh, mesh.valkey_url, "valkey", service)) as client:
            with pytest.raises(AuthenticationError):
                await client.get(f"{service}:test")


async def test_passwords_of_valkeys_users_are_stored_as_hashes(mesh: Mesh) -> None:
    text = (mesh.folder.valkey / "valkey.conf").read_text()
    for user in ("operator", *WITH_VALKEY):
        assert mesh.folder.secrets().get(f"valkey.{user}") not in text


async def test_no_process_was_refused_by_nats(mesh: Mesh) -> None:
    """Each service lives with what its user may do: `Broker` logs what NATS refuses."""
    await mesh.healthy()
    for log in mesh.folder.logs.glob("*.log"):
        text = log.read_text().lower()
        assert "permissions violation" not in text or log.stem == "nats", log.name
