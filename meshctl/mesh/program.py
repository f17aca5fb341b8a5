"""A program that the supervisor runs: what to start, as whom, and how to tell that it is healthy."""

import os
import pwd
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from meshctl.core.failure import OperatorError

LAUNCH = Path(__file__).parent / "launch.py"
CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 1, 2


@dataclass(frozen=True)
class Account:
    """The account that a program runs as; `capability` is a Linux capability number that it keeps, or -1."""

    uid: int = -1
    gid: int = -1
    capability: int = -1


@dataclass(frozen=True)
class Program:
    name: str
    command: tuple[str, ...]
    port: int
    ready: Callable[[], Awaitable[bool]]
    # Where Prometheus finds its metrics, on loopback; empty for a program without metrics.
    metrics_url: str = ""
    # The whole environment; empty means that of the supervisor.
    environment: Mapping[str, str] = field(default_factory=dict)
    account: Account = Account()
    stop_signal: signal.Signals = signal.SIGTERM
    stop_seconds: float = 20.0
    # Runs before the stop signal, so that requests under way can finish.
    drain: Callable[[], Awaitable[None]] | None = None


def launch_command(command: tuple[str, ...], account: Account = Account()) -> list[str]:
    """Returns the command line that starts `command` as `account` and ends it when this process ends."""
    identity = (os.getpid(), account.uid, account.gid, account.capability)
    return [sys.executable, "-I", "-S", str(LAUNCH), *(str(number) for number in identity), *command]


def unprivileged(*reached: Path) -> Account:
    """Returns the account for a program that refuses to run as root but must reach the given folders.

    For an ordinary user it is that user. For root it is `nobody`, with the capability to traverse folders
    when one on the path is closed to it.
    """
    if os.geteuid() != 0:
        _require_name(os.geteuid())
        return Account()
    uid, gid = _nobody()
    closed = next((path for path in reached if not _open_to_all(path)), None)
    return Account(uid, gid, -1 if closed is None else _passage(closed))


def _require_name(uid: int) -> None:
    try:
        pwd.getpwuid(uid)
    except KeyError:
        raise OperatorError(
            f"PostgreSQL runs only as a user with a name, and user {uid} has none: add one, or use --postgres-url."
        ) from None


def _nobody() -> tuple[int, int]:
    try:
        entry = pwd.getpwnam("nobody")
    except KeyError:
        return 65534, 65534
    return entry.pw_uid, entry.pw_gid


def _open_to_all(path: Path) -> bool:
    return all(folder.stat().st_mode & 0o001 for folder in path.resolve().parents)


def _passage(closed: Path) -> int:
    permitted = _permitted_capabilities()
    for capability in (CAP_DAC_READ_SEARCH, CAP_DAC_OVERRIDE):
        if permitted & (1 << capability):
            return capability
    raise OperatorError(
        f"PostgreSQL does not run as root and the user nobody cannot reach {closed}: "
        "start as an ordinary user, or keep the project and --data in folders that everyone may enter."
    )


def _permitted_capabilities() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapPrm:"):
            return int(line.split()[1], 16)
    return 0
