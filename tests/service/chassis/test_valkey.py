"""The Valkey client: what callers share, and what becomes of them when one leaves or Valkey does."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from chassis.core import Unavailable, uuid7
from chassis.outside import Valkey
from meshctl.core.ports import Ports
from meshctl.mesh.parts import valkey as part
from meshctl.mesh.process import Process
from tests import parts

TIMEOUT = 0.5


@dataclass
class Stand:
    """A Valkey that tests may stop, and a client."""

    process: Process
    client: Valkey

    def tell(self, number: signal.Signals) -> None:
        assert self.process.pid
        os.kill(self.process.pid, number)


@pytest.fixture
async def valkey(valkey_url: str) -> AsyncIterator[Valkey]:
    client = Valkey(valkey_url, timeout=TIMEOUT)
    yield client
    await client.close()


@pytest.fixture
async def stand(tmp_path: Path) -> AsyncIterator[Stand]:
    port = Ports().take()
    async with parts.running(part.program(tmp_path, port, {"operator": "p@ss:word"}), tmp_path) as process:
        client = Valkey(f"valkey://operator:p%40ss%3Aword@127.0.0.1:{port}", timeout=TIMEOUT)
        yield Stand(process, client)
        await client.close()


def name() -> str:
    return f"test:{uuid7()}"


async def connections(valkey: Valkey) -> int:
    (clients,) = await valkey.run(("CLIENT", "LIST"))
    return len(clients.splitlines())


async def test_replies_come_in_the_order_of_the_commands(valkey: Valkey) -> None:
    key = name()
    assert await valkey.run(("GET", key), ("INCRBY", key, 3), ("MGET", key, name())) == [
        None,
        3,
        [b"3", None],
    ]


async def test_callers_at_once_share_a_connection_and_each_gets_its_own_replies(stand: Stand) -> None:
    key = name()

    async def count(_: int) -> int:
        first, second = await stand.client.run(("INCR", key), ("INCR", key))
        assert second == first + 1
        return int(second)

    counts = await asyncio.gather(*map(count, range(200)))
    assert sorted(counts) == list(range(2, 401, 2))
    assert await connections(stand.client) == 1


async def test_a_caller_who_leaves_takes_nobody_elses_reply(valkey: Valkey) -> None:
    key = name()
    await valkey.run(("PING",))
    calls = [asyncio.ensure_future(valkey.run(("INCR", key))) for _ in range(5)]
    await asyncio.sleep(0)
    calls[0].cancel()
    calls[3].cancel()
    kept = [call for call in calls if call not in (calls[0], calls[3])]
    assert await asyncio.gather(*kept) == [[2], [3], [5]]


async def test_who_began_to_connect_may_leave(stand: Stand) -> None:
    first = asyncio.ensure_future(stand.client.run(("PING",)))
    second = asyncio.ensure_future(stand.client.run(("INCR", "visits")))
    await asyncio.sleep(0)
    first.cancel()
    assert await second == [1]


async def test_a_refused_command_fails_its_own_caller_alone(valkey: Valkey) -> None:
    key = name()
    commands = ([("SET", key, "text")], [("INCR", key), ("GET", key)], [("GET", key)])
    right, wrong, last = [asyncio.ensure_future(valkey.run(*each)) for each in commands]
    assert await right == [True]
    assert await last == [b"text"]
    with pytest.raises(Unavailable):
        await wrong


async def test_a_lost_connection_is_opened_again(stand: Stand) -> None:
    await stand.client.run(("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "no"))
    assert await stand.client.run(("INCR", "visits")) == [1]


async def test_while_valkey_is_away_callers_know_at_once_and_when_it_is_back_they_are_served(
    stand: Stand,
) -> None:
    await stand.client.run(("PING",))
    await stand.process.stop()
    began = time.monotonic()
    with pytest.raises(Unavailable) as refused:
        await stand.client.run(("PING",))
    assert refused.value.reason == "DEPENDENCY_UNAVAILABLE"
    assert time.monotonic() - began < TIMEOUT
    await stand.process.start()
    assert await stand.client.run(("INCR", "visits")) == [1]


@pytest.mark.parametrize("connected", [True, False])
async def test_of_a_valkey_that_hangs_all_who_wait_are_told_in_time(stand: Stand, connected: bool) -> None:
    if connected:
        await stand.client.run(("PING",))
    stand.tell(signal.SIGSTOP)
    began = time.monotonic()
    try:
        told = await asyncio.gather(*(stand.client.run(("PING",)) for _ in range(20)), return_exceptions=True)
    finally:
        stand.tell(signal.SIGCONT)
    assert {type(each) for each in told} == {Unavailable}
    assert TIMEOUT <= time.monotonic() - began < 4 * TIMEOUT
    assert await stand.client.run(("INCR", "visits")) == [1]


async def test_a_wrong_password_is_told_and_leaves_no_connection(stand: Stand) -> None:
    port = stand.process.program.port
    stranger = Valkey(f"redis://operator:wrong@127.0.0.1:{port}/0", timeout=TIMEOUT)
    for _ in range(3):
        with pytest.raises(Unavailable):
            await stranger.run(("PING",))
    assert await connections(stand.client) == 1


async def test_a_url_names_a_database_and_a_user(valkey_url: str, valkey: Valkey) -> None:
    key = name()
    other = Valkey(valkey_url.removesuffix("/0") + "/1", timeout=TIMEOUT)
    await other.run(("SET", key, "there"))
    assert await valkey.run(("GET", key)) == [None]
    assert await other.run(("GET", key)) == [b"there"]
    await other.close()
