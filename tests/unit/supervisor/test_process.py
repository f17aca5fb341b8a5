"""A child process: its start, its death, its end."""

import asyncio
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
from meshctl.mesh.process import Process
from meshctl.mesh.program import Program, launch_command


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
