"""What a supervisor ends of an earlier one, and what it leaves alone; work that recurs."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from meshctl.mesh import housekeeping
from meshctl.mesh.housekeeping import Ledger


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"]) as child:
        yield child
        child.kill()


def test_what_an_earlier_supervisor_left_is_ended(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    Ledger(tmp_path / "processes").add("catalog-1", sleeper.pid)
    Ledger(tmp_path / "processes").end_orphans()
    assert sleeper.wait(timeout=5) == -15
    assert not (tmp_path / "processes").exists()


def test_another_process_with_the_pid_of_a_dead_one_is_left_alone(
    tmp_path: Path, sleeper: subprocess.Popen[bytes]
) -> None:
    started = psutil.Process(sleeper.pid).create_time()
    (tmp_path / "processes").write_text(json.dumps({"catalog-1": [sleeper.pid, started - 60]}))
    Ledger(tmp_path / "processes").end_orphans()
    assert sleeper.poll() is None


def test_a_command_that_was_started_from_an_orphan_ends_neither_that_nor_itself(tmp_path: Path) -> None:
    Ledger(tmp_path / "processes").add("shell", os.getpid())
    code = (
        "from pathlib import Path; from meshctl.mesh.housekeeping import Ledger; "
        f"Ledger(Path({str(tmp_path / 'processes')!r})).end_orphans(); print('alive')"
    )
    command = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert command.stdout == "alive\n"


def test_a_process_can_be_recorded_on_a_full_disk(sleeper: subprocess.Popen[bytes]) -> None:
    Ledger(Path("/dev/full/processes")).add("catalog-1", sleeper.pid)


async def test_work_that_fails_is_said_and_done_again() -> None:
    said: list[str] = []
    again = asyncio.Event()

    def work() -> None:
        if not said:
            raise OSError("No space left on device")
        again.set()

    renewing = asyncio.create_task(housekeeping.repeatedly("The renewal", 0.01, work, said.append))
    await asyncio.wait_for(again.wait(), 5)
    renewing.cancel()
    assert said == ["The renewal failed (No space left on device); trying again in 0 s"]
