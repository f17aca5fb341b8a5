"""Health means that a part does its job, and what the supervisor does when it does not."""

import asyncio
import secrets
from pathlib import Path

import nats
import nats.errors
import pytest
from nats.js import JetStreamContext
from redis.asyncio import Redis

from meshctl.core.folder import MeshFolder
from meshctl.core.polling import until
from meshctl.core.ports import Ports
from meshctl.mesh import process as supervised
from meshctl.mesh.parts import nats as nats_part
from meshctl.mesh.parts import postgres, valkey
from meshctl.mesh.program import Health
from tests import parts
from tests.disks import fill


async def stores(stream: JetStreamContext) -> bool:
    try:
        await stream.publish("catalog.price", bytes(100_000), timeout=1)
    except (nats.errors.Error, TimeoutError):
        return False
    return True


async def test_nats_stores_again_once_its_full_disk_has_space(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NATS closes a stream that it could not write to until it is started again, and serves everything else."""
    monkeypatch.setattr(supervised, "CHECK_SECONDS", 0.1)
    (port, monitor), password = (Ports().take(), Ports().take()), secrets.token_hex(16)
    program = nats_part.program(small_disk / "nats", port, {"operator": password}, monitor)
    async with parts.running(program, small_disk) as process:
        client = await nats.connect(nats_part.url(port, "operator", password), reconnect_time_wait=0.1)
        stream = client.jetstream()
        await stream.add_stream(name="CATALOG", subjects=["catalog.>"])
        assert await stores(stream)

        filler = fill(small_disk)
        assert not await stores(stream)
        health = await process.health()
        assert (health.complaint, health.curable) == ("it cannot store events: the disk is full", False)
        before = process.pid
        filler.unlink()
        # Nobody restarts NATS but the supervisor.
        async with asyncio.timeout(30):
            await until(lambda: stores(stream))
        assert process.pid != before
        await client.close()


async def test_nats_that_recovers_its_streams_is_not_ended(tmp_path: Path) -> None:
    """It opens its port last; until then only its monitor answers."""
    (port, monitor), password = (Ports().take(), Ports().take()), secrets.token_hex(16)
    async with parts.running(
        nats_part.program(tmp_path / "nats", port, {"operator": password}, monitor), tmp_path
    ):
        closed = nats_part.program(tmp_path / "other", Ports().take(), {"operator": password}, monitor)
        assert await closed.health() == Health("it is not ready")


async def test_postgresql_starts_although_the_one_that_was_killed_is_not_buried_yet(tmp_path: Path) -> None:
    """The pid in its lock file then belongs to a process that has ended, and is still listed."""
    MeshFolder(tmp_path).prepare()
    program = await postgres.program(tmp_path / "postgres", Ports().take(), "password")
    async with parts.running(program, tmp_path):
        pass
    lines = ["{pid}", str(tmp_path / "postgres"), "1700000000", "15432", "", "127.0.0.1", "", "ready   "]
    unburied = await asyncio.create_subprocess_exec(
        *("sh", "-c", 'sh -c "exit 0" & echo $!; exec sleep 60'), stdout=asyncio.subprocess.PIPE
    )
    try:
        assert unburied.stdout is not None
        pid = (await unburied.stdout.readline()).decode().strip()
        (tmp_path / "postgres/postmaster.pid").write_text("\n".join(lines).format(pid=pid) + "\n")
        async with parts.running(program, tmp_path) as process:
            assert process.restarts == 0
    finally:
        unburied.kill()
        await unburied.wait()


async def test_the_lock_of_a_postgresql_that_runs_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "SETTLE_SECONDS", 0.2)
    async with parts.running_postgres(tmp_path):
        before = (tmp_path / "postgres/postmaster.pid").read_text()
        second = await postgres.program(tmp_path / "postgres", Ports().take(), "password")
        assert second.prepare is not None
        await second.prepare()
        assert (tmp_path / "postgres/postmaster.pid").read_text() == before


async def test_a_postgresql_that_does_not_commit_is_not_healthy_and_not_restarted(tmp_path: Path) -> None:
    port, password = Ports().take(), secrets.token_hex(16)
    MeshFolder(tmp_path).prepare()
    program = await postgres.program(tmp_path / "postgres", port, password)
    async with parts.running(program, tmp_path) as process:
        assert not (await process.health()).complaint
        wrong = await postgres.program(tmp_path / "postgres", port, "wrong")
        health = await wrong.health()
        assert "it does not commit" in health.complaint
        assert not health.curable


async def test_a_valkey_that_refuses_writes_is_not_healthy_and_not_restarted(tmp_path: Path) -> None:
    port, password = Ports().take(), secrets.token_hex(16)
    async with parts.running(valkey.program(tmp_path, port, {"operator": password}), tmp_path) as process:
        assert not (await process.health()).complaint
        async with Redis.from_url(valkey.url(port, "operator", password)) as client:
            await client.config_set("maxmemory", "1")
        health = await process.health()
        assert health.complaint.startswith("it refuses to write: ")
        assert not health.curable
