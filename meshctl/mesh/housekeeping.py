"""Housekeeping of the supervisor: what an earlier one left behind, memory figures, work that recurs."""

import asyncio
import contextlib
import json
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from meshctl.core.files import write_private

END_SECONDS = 10.0
# The start of a process, as seconds since 1970, depends on the system's clock, which may be set meanwhile.
CLOCK_SECONDS = 1.0


class Ledger:
    """The processes of a mesh, in a file: each by its pid and its start, which no other process has.

    The kernel ends the children of a supervisor that is killed (Linux only); what it leaves is found by this file.
    The environment tells nothing: everything that is started from a shell inherits it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._started: dict[str, tuple[int, float]] = {}

    def add(self, name: str, pid: int) -> None:
        """Records the current process of a name."""
        with contextlib.suppress(psutil.NoSuchProcess):
            self._started[name] = (pid, psutil.Process(pid).create_time())
        # On a full disk it must still be possible to start a process.
        with contextlib.suppress(OSError):
            write_private(self._path, json.dumps(self._started))

    def end_orphans(self) -> None:
        """Ends what an earlier supervisor recorded and did not end; call it only with the folder locked."""
        try:
            recorded = json.loads(self._path.read_text()).values()
        except (OSError, ValueError):
            return
        orphans = [process for pid, started in recorded for process in _family(pid, started)]
        _end(orphans)
        self._path.unlink(missing_ok=True)


def memory_of(pid: int | None) -> int:
    """Returns the bytes of memory of a process and its children; shared pages are counted proportionally."""
    try:
        family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)] if pid else []
    except psutil.NoSuchProcess:
        return 0
    return sum(_proportional(process) for process in family)


async def repeatedly(
    title: str, seconds: float, work: Callable[[], object], say: Callable[[str], None]
) -> None:
    """Does the work every so often for as long as it runs; a failure is said, and does not end it."""
    while True:
        await asyncio.sleep(seconds)
        try:
            work()
        except Exception as failure:  # noqa: BLE001  whatever it is, the next time may go well
            say(f"{title} failed ({failure}); trying again in {seconds:.0f} s")


def _family(pid: int, started: float) -> list[psutil.Process]:
    """The process with this pid and start, and its descendants; none of those that this process comes from."""
    try:
        process = psutil.Process(pid)
        if abs(process.create_time() - started) > CLOCK_SECONDS:
            return []
        family = [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []
    own = [psutil.Process(), *psutil.Process().parents()]
    return [member for member in family if member not in own]


def _end(processes: list[psutil.Process]) -> None:
    for end in (psutil.Process.terminate, psutil.Process.kill):
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                end(process)
        deadline = time.monotonic() + END_SECONDS
        while (
            processes := [process for process in processes if runs(process)]
        ) and time.monotonic() < deadline:
            time.sleep(0.05)


def runs(process: psutil.Process) -> bool:
    """Whether it has not ended. One that has ended stays visible until its parent has asked how."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _proportional(process: psutil.Process) -> int:
    try:
        memory = process.memory_full_info()
        return int(getattr(memory, "pss", 0) or memory.rss)
    except psutil.AccessDenied:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0
