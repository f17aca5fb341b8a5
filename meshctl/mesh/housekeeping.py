"""Housekeeping of the supervisor: orphans, memory figures, logs of limited size."""

import asyncio
import os
import shutil
from pathlib import Path

import psutil

LOG_BYTES = 16 * 1024 * 1024
LOG_CHECK_SECONDS = 10.0


def end_orphans(mark: str, value: str) -> None:
    """Ends processes that an earlier supervisor left behind: those with `mark=value` in their environment."""
    orphans = [process for process in psutil.process_iter() if _belongs(process, mark, value)]
    for process in orphans:
        _end(process)
    _, stubborn = psutil.wait_procs(orphans, timeout=10)
    for process in stubborn:
        process.kill()
    psutil.wait_procs(stubborn, timeout=5)


def memory_of(pid: int | None) -> int:
    """Returns the bytes of memory of a process and its children; shared pages are counted proportionally."""
    try:
        family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)] if pid else []
    except psutil.NoSuchProcess:
        return 0
    return sum(_proportional(process) for process in family)


async def trim_logs(folder: Path) -> None:
    """Keeps each log below twice LOG_BYTES for as long as it runs: the older half moves to `NAME.log.1`."""
    while True:
        for log in folder.glob("*.log"):
            if log.stat().st_size > LOG_BYTES:
                # Copied, since the process goes on writing to this file; it appends, so it may be emptied.
                shutil.copyfile(log, log.with_suffix(".log.1"))
                os.truncate(log, 0)
        await asyncio.sleep(LOG_CHECK_SECONDS)


def _belongs(process: psutil.Process, mark: str, value: str) -> bool:
    try:
        return process.pid != os.getpid() and process.environ().get(mark) == value
    except (psutil.Error, OSError):
        return False


def _end(process: psutil.Process) -> None:
    try:
        process.terminate()
    except psutil.NoSuchProcess:
        return


def _proportional(process: psutil.Process) -> int:
    try:
        memory = process.memory_full_info()
        return int(getattr(memory, "pss", 0) or memory.rss)
    except psutil.AccessDenied:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0
