"""A child process: its start, its death, its end."""

import asyncio
import dataclasses
import errno
import os
import signal
import sys
import textwrap
from pathlib import Path

import psutil
import pytest

from meshctl.core.failure import OperatorError
from meshctl.core.ports import Ports
from meshctl.mesh import process as supervised
from meshctl.mesh import program as programs
from meshctl.mesh.process import Process
from meshctl.mesh.program import Program, Unwell, launch_command


def listener(port: int, **fields: object) -> Program:
    """A program that is healthy once it listens on the port."""
    code = f"import socket, signal; s = socket.create_server(('127.0.0.1', {port})); signal.pause()"

    async def ready() -> bool:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.close()
        return True

    return Program("listener", (sys.executable, "-c", code), port, ready, **fields)  # type: ignore[arg-type]


async def test_a_program_that_dies_is_started_again_and_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervised, "FIRST_BACKOFF", 0.01)
    said: list[str] = []
    again = asyncio.Event()

    def say(line: str) -> None:
        said.append(line)
        if "again" in line and "healthy" in line:
            again.set()

    process = Process(listener(Ports().take()), tmp_path / "log", say)
    await process.start()
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    await asyncio.wait_for(again.wait(), 20)
    assert said == ["listener ended (signal 9); starting it again in 0.0 s", "listener is healthy again"]
    assert process.restarts == 1
    await process.stop()
    assert process.pid is None


async def test_a_program_that_ends_while_it_starts_is_told_with_its_last_words(tmp_path: Path) -> None:
    async def never() -> bool:
        return False

    command = (sys.executable, "-c", "import sys; sys.exit('No such luck.')")
    process = Process(Program("unlucky", command, 0, never), tmp_path / "log")
    with pytest.raises(OperatorError, match=r"^unlucky ended while it started: No such luck\.$"):
        await process.start()


class Said:
    """What a process says, line by line."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._more = asyncio.Event()

    def __call__(self, line: str) -> None:
        self.lines.append(line)
        self._more.set()

    async def until(self, words: str) -> None:
        """Returns once it has said these words."""
        async with asyncio.timeout(20):
            while not any(words in line for line in self.lines):
                self._more.clear()
                await self._more.wait()


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checks and restarts follow each other at once."""
    monkeypatch.setattr(supervised, "CHECK_SECONDS", 0.01)
    monkeypatch.setattr(supervised, "FIRST_BACKOFF", 0.01)
    monkeypatch.setattr(programs, "CHECK_TIMEOUT", 0.5)


@pytest.mark.usefixtures("hasty")
async def test_a_program_that_hangs_is_replaced(tmp_path: Path) -> None:
    """It is stopped: it keeps its port, where the kernel still takes connections, and answers nothing."""
    port, said = Ports().take(), Said()
    code = f"import socket; s = socket.create_server(('127.0.0.1', {port}))\nwhile True: s.accept()[0].send(b'yes')"

    async def ready() -> bool:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            return await reader.read(3) == b"yes"
        finally:
            writer.close()

    process = Process(Program("echo", (sys.executable, "-c", code), port, ready), tmp_path / "log", said)
    await process.start()
    hung = process.pid
    assert hung is not None
    os.kill(hung, signal.SIGSTOP)
    await said.until("echo is healthy again")
    assert process.pid not in (None, hung)
    assert said.lines[0] == "echo was killed: it does not answer (TimeoutError); starting it again in 0.0 s"
    await process.stop()


@pytest.mark.usefixtures("hasty")
async def test_a_program_that_answers_that_it_has_a_problem_is_left_alone(tmp_path: Path) -> None:
    """PostgreSQL that recovers, or whose disk is full: a restart would only begin the same again."""
    checks = asyncio.Semaphore(0)
    problem = ""

    async def ready() -> bool:
        checks.release()
        if problem:
            raise Unwell(problem)
        return True

    process = Process(dataclasses.replace(listener(Ports().take()), ready=ready), tmp_path / "log")
    await process.start()
    before, problem = process.pid, "it recovers"
    async with asyncio.timeout(20):
        for _ in range(4 * supervised.FAILED_CHECKS):
            await checks.acquire()
    assert (process.pid, process.restarts) == (before, 0)
    assert (await process.health()).complaint == "it recovers"
    await process.stop()


@pytest.mark.usefixtures("hasty")
async def test_a_program_that_cannot_be_started_again_is_tried_until_it_can(tmp_path: Path) -> None:
    said = Said()
    failures = [
        OSError(errno.EAGAIN, "Resource temporarily unavailable"),
        OSError(errno.ENOSPC, "No space left on device"),
    ]

    async def prepare() -> None:
        # The first start succeeds.
        if process.restarts and failures:
            raise failures.pop(0)

    process = Process(listener(Ports().take(), prepare=prepare), tmp_path / "log", said)
    await process.start()
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    await said.until("listener is healthy again")
    assert said.lines[1:5] == [
        "listener could not be started: [Errno 11] Resource temporarily unavailable",
        "listener does not run; starting it again in 0.0 s",
        "listener could not be started: the disk is full.",
        "listener does not run; starting it again in 0.0 s",
    ]
    assert process.pid is not None
    await process.stop()


async def test_what_everything_waits_for_is_tried_again_soon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervised, "FIRST_BACKOFF", 0.1)
    said = Said()
    full = [OSError(errno.ENOSPC, "No space left on device") for _ in range(3)]

    async def prepare() -> None:
        if process.restarts and full:
            raise full.pop()

    program = listener(Ports().take(), prepare=prepare, longest_backoff=0.2)
    process = Process(program, tmp_path / "log", said)
    await process.start()
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    await said.until("healthy again")
    pauses = [line.rpartition(" in ")[2] for line in said.lines if "starting it again" in line]
    assert pauses == ["0.1 s", "0.2 s", "0.2 s", "0.2 s"]
    await process.stop()


@pytest.mark.usefixtures("hasty")
async def test_a_program_whose_restart_fails_is_still_watched(tmp_path: Path) -> None:
    said = Said()
    failing = iter([False, True, False])

    async def prepare() -> None:
        if next(failing):
            raise OSError(errno.ENOSPC, "No space left on device")

    process = Process(listener(Ports().take(), prepare=prepare), tmp_path / "log", said)
    await process.start()
    with pytest.raises(OperatorError, match=r"^listener could not be started: the disk is full\.$"):
        await process.restart()
    await said.until("listener is healthy again")
    await process.stop()
    assert process.pid is None


async def test_the_reason_is_of_this_start_and_not_of_an_earlier_one(tmp_path: Path) -> None:
    async def never() -> bool:
        return False

    (tmp_path / "log").write_text("An old reason.\n" * 3)
    process = Process(Program("mute", (sys.executable, "-c", ""), 0, never), tmp_path / "log")
    with pytest.raises(OperatorError, match=r"^mute ended while it started: it wrote nothing to its log\.$"):
        await process.start()


async def test_a_program_that_ignores_its_stop_signal_is_killed(tmp_path: Path) -> None:
    port = Ports().take()
    stubborn = listener(port, stop_signal=signal.SIGCONT, stop_seconds=0.2)
    said: list[str] = []
    process = Process(stubborn, tmp_path / "log", said.append)
    await process.start()
    await process.stop()
    assert process.pid is None
    assert said == ["listener did not end within 0 s; killed"]


async def test_a_child_ends_with_its_supervisor_however_that_ends(tmp_path: Path) -> None:
    parent = textwrap.dedent(
        """
        import subprocess, sys
        from meshctl.mesh.program import launch_command
        child = subprocess.Popen(launch_command((sys.executable, "-c", "import signal; signal.pause()")))
        print(child.pid, flush=True)
        child.wait()
        """
    )
    supervisor = await asyncio.create_subprocess_exec(
        *launch_command((sys.executable, "-c", parent)), stdout=asyncio.subprocess.PIPE
    )
    assert supervisor.stdout is not None
    child = psutil.Process(int(await supervisor.stdout.readline()))
    supervisor.kill()
    await supervisor.wait()
    gone, _ = await asyncio.to_thread(psutil.wait_procs, [child], 10)
    assert gone == [child]
