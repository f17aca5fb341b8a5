"""Channels, when one of two workers hangs, is blocked or dies: the other one takes over, and it comes back."""

import asyncio
import os
import pathlib
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from chassis.core import Settings
from chassis.rpc import MeshChannel
from tests.unit.chassis.stand import Thing, method

# Calls in a row without a failure after which the outage counts as over, and how long that may take.
QUIET = 40
NOTICED_SECONDS = 20


class Worker:
    """A worker process and its port."""

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self.pid, self.port = process.pid, port

    def tell(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)


@asynccontextmanager
async def worker(directory: pathlib.Path) -> AsyncIterator[Worker]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.unit.chassis.worker",
        str(directory),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(60):
            yield Worker(process, int(await process.stdout.readline()))
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@asynccontextmanager
async def two_workers(directory: pathlib.Path) -> AsyncIterator[tuple[Worker, Worker, Any]]:
    """Two workers, and an RPC of theirs through one channel, which has met both."""
    async with worker(directory) as one, worker(directory) as two:
        targets = {"scratch": f"ipv4:127.0.0.1:{one.port},127.0.0.1:{two.port}"}
        async with MeshChannel(
            Settings(service="ordering", tls_directory=directory, targets=targets)
        ) as channel:
            open_ = method(channel, "Open")
            await until_met(open_, {one.pid, two.pid})
            yield one, two, open_


async def until_met(call: Any, pids: set[int]) -> None:
    async with asyncio.timeout(NOTICED_SECONDS):
        while pids:
            pids = pids - {await one_call(call)}


async def one_call(call: Any) -> int:
    """The worker that answers; 0 when none did in time."""
    try:
        return int((await call(Thing(), timeout=0.5)).text)
    except grpc.aio.AioRpcError:
        return 0


async def until_quiet(call: Any) -> None:
    """Calls, four at a time as a service in use does, until so many in a row are answered."""
    answered = 0
    while answered < QUIET:
        answers = await asyncio.gather(*(one_call(call) for _ in range(4)))
        answered = answered + 4 if all(answers) else 0


def stop(worker: Worker) -> None:
    """A process that hangs as a whole: its connections stay open, and nothing is ever said on them."""
    worker.tell(signal.SIGSTOP)


def block(worker: Worker) -> None:
    """A process whose event loop is held: its connections live, its calls do not."""
    worker.tell(signal.SIGUSR1)


def kill(worker: Worker) -> None:
    """A reset."""
    worker.tell(signal.SIGKILL)


@pytest.mark.parametrize("outage", [stop, block, kill])
async def test_within_seconds_no_call_goes_to_a_worker_that_does_not_answer(
    certificate_directory: pathlib.Path, outage: Callable[[Worker], None]
) -> None:
    async with two_workers(certificate_directory) as (broken, healthy, call):
        outage(broken)
        async with asyncio.timeout(NOTICED_SECONDS):
            await until_quiet(call)
        assert {await one_call(call) for _ in range(QUIET)} == {healthy.pid}


async def test_a_worker_that_hung_gets_calls_again_when_it_goes_on(
    certificate_directory: pathlib.Path,
) -> None:
    async with two_workers(certificate_directory) as (hung, healthy, call):
        stop(hung)
        async with asyncio.timeout(NOTICED_SECONDS):
            await until_quiet(call)
        hung.tell(signal.SIGCONT)
        await until_met(call, {hung.pid, healthy.pid})


async def test_an_idle_channel_notices_a_hung_worker_too(certificate_directory: pathlib.Path) -> None:
    """Nobody calls meanwhile; the first calls after it find the healthy one."""
    async with two_workers(certificate_directory) as (hung, healthy, call):
        stop(hung)
        await asyncio.sleep(5)
        assert {await one_call(call) for _ in range(QUIET)} == {healthy.pid}
