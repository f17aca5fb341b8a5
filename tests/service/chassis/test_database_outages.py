"""A service whose PostgreSQL hangs, dies or is slow: each call is answered in time, with a full status."""

import asyncio
import os
import pathlib
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from sqlalchemy import func, select, text

from chassis import contract
from chassis.core import reason_of
from chassis.data import Query
from meshctl.core.ports import Ports
from meshctl.mesh.parts import postgres
from meshctl.mesh.process import Process
from tests import certificates, parts
from tests.patience import eventually
from tests.unit.chassis.stand import FILES, Scratch, Stand, Thing, method, running

ONE = Query(select(func.now()))
SLEEP = Query(select(func.pg_sleep(30)))
# Calls at once: more than the pool has connections, so that some hang in a statement and some in line.
AT_ONCE = 8


class Storing(Scratch):
    """Uses its database in the way that the request names."""

    def __init__(self, service: Any) -> None:
        super().__init__()
        self.database = service.database
        self.inside, self.go_on = asyncio.Event(), asyncio.Event()

    async def Open(self, request: Any, call: Any) -> Any:
        await getattr(self, request.text)()
        return request

    async def read(self) -> None:
        await self.database.one(ONE)

    async def write(self) -> None:
        async with self.database.unit_of_work() as work:
            await work.execute(text("CREATE TEMPORARY TABLE IF NOT EXISTS scratch ()"))

    async def books(self) -> None:
        async with self.database.connection() as connection:
            await connection.execute("SELECT 1")

    async def commit(self) -> None:
        """Stands in a transaction until it may go on."""
        async with self.database.unit_of_work() as work:
            await work.execute(text("SELECT 1"))
            self.inside.set()
            await self.go_on.wait()

    async def wait(self) -> None:
        """Stands in a transaction and waits for something else."""
        async with self.database.unit_of_work() as work:
            await work.execute(text("SELECT 1"))
            self.inside.set()
            await asyncio.Event().wait()

    async def sleep(self) -> None:
        await self.database.one(SLEEP)


@pytest.fixture(autouse=True)
def scratch_contract() -> Iterator[None]:
    for file in FILES:
        contract.register(file)
    yield
    for file in FILES:
        contract.unregister(file)


@asynccontextmanager
async def storing(folder: pathlib.Path) -> AsyncIterator[tuple[Process, Stand]]:
    """A PostgreSQL of its own, and a service on it that has used it."""
    certificates.issue(folder, "scratch", "edge")
    port = Ports().take()
    program = await parts.postgres_program(folder, port, "password")
    async with (
        parts.running(program, folder) as server,
        running(
            folder, servicer=Storing, database_url=postgres.url(port, "password"), database_pool_size=4
        ) as stand,
    ):
        await ask(stand, "write")
        yield server, stand


async def ask(stand: Stand, what: str) -> Any:
    return await method(stand.channel(), "Open")(Thing(text=what))


async def failures(stand: Stand, what: str) -> set[str]:
    """What so many calls at once are told, each with a full status: a bare one has no reason."""
    calls = await asyncio.gather(*(ask(stand, what) for _ in range(AT_ONCE)), return_exceptions=True)
    return {reason_of(error) or repr(error) for error in calls if isinstance(error, grpc.aio.AioRpcError)}


def told(process: Process, number: signal.Signals) -> Callable[[], None]:
    def tell() -> None:
        assert process.pid is not None
        for pid in (process.pid, *children(process.pid)):
            os.kill(pid, number)

    return tell


def children(pid: int) -> list[int]:
    return [int(child) for child in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.parametrize("what", ["read", "write", "books"])
async def test_a_database_that_hangs_is_told_in_time_and_in_full(tmp_path: pathlib.Path, what: str):
    async with storing(tmp_path) as (server, stand):
        told(server, signal.SIGSTOP)()
        try:
            assert await failures(stand, what) <= {"DEADLINE_EXCEEDED", "OVERLOADED"}
            assert await failures(stand, what)
        finally:
            told(server, signal.SIGCONT)()
        await until_served(stand, what)


@pytest.mark.parametrize("what", ["commit", "wait"])
async def test_a_transaction_whose_database_hangs_in_its_middle_is_told_in_time(
    tmp_path: pathlib.Path, what: str
):
    async with storing(tmp_path) as (server, stand):
        servicer: Any = stand.scratch
        call = asyncio.ensure_future(ask(stand, what))
        await servicer.inside.wait()
        told(server, signal.SIGSTOP)()
        try:
            servicer.go_on.set()
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                await call
        finally:
            told(server, signal.SIGCONT)()
        assert reason_of(failed.value) == "DEADLINE_EXCEEDED"
        await until_served(stand, "read")


async def test_a_database_that_dies_is_unavailable(tmp_path: pathlib.Path):
    async with storing(tmp_path) as (server, stand):
        told(server, signal.SIGKILL)()
        assert await failures(stand, "read") <= {"DEPENDENCY_UNAVAILABLE"}
        await until_served(stand, "read")


async def test_a_statement_that_is_slow_is_a_deadline_exceeded(tmp_path: pathlib.Path):
    async with storing(tmp_path) as (_, stand):
        begin = asyncio.get_running_loop().time()
        assert await failures(stand, "sleep") <= {"DEADLINE_EXCEEDED", "OVERLOADED"}
        assert asyncio.get_running_loop().time() - begin < 2.5
        await until_served(stand, "read")


async def test_a_service_whose_database_is_not_there_yet_wants_no_calls(tmp_path: pathlib.Path):
    """It says so to whoever asks for its health, and serves as soon as the database answers."""
    certificates.issue(tmp_path, "scratch", "edge")
    ports = Ports()
    database_port, port = ports.take(), ports.take()
    program = await parts.postgres_program(tmp_path, database_port, "password")
    url = postgres.url(database_port, "password")
    starting = running(tmp_path, servicer=Storing, database_url=url, port=port)
    started = asyncio.ensure_future(starting.__aenter__())
    waiting = Stand(tmp_path, port)
    assert await health(waiting) == health_pb2.HealthCheckResponse.NOT_SERVING
    assert not started.done()
    async with parts.running(program, tmp_path):
        async with asyncio.timeout(15):
            stand = await started
        assert await health(waiting) == health_pb2.HealthCheckResponse.SERVING
        assert (await ask(stand, "read")).text == "read"
        await waiting.close()
        await starting.__aexit__(None, None, None)


async def health(stand: Stand) -> int:
    """What a balancer is told, once the server listens."""
    stub: Any = health_pb2_grpc.HealthStub(stand.plain())
    answer = await stub.Check(health_pb2.HealthCheckRequest(), wait_for_ready=True, timeout=15)
    return int(answer.status)


async def until_served(stand: Stand, what: str) -> None:
    """Whatever happened, the service finds its database again, and every connection of its pool is fit."""

    async def served() -> bool:
        return not await failures(stand, what)

    await eventually(served, within=15)
