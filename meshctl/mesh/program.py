"""A program that the supervisor runs: what to start, as whom, and how to tell that it is healthy."""

import asyncio
import dataclasses
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

LAUNCH = Path(__file__).parent / "launch.py"
CAP_DAC_READ_SEARCH, CAP_NET_BIND_SERVICE = 2, 10
CHECK_TIMEOUT = 5.0
# An event that waits for longer is stuck: it is published within moments when all is well.
LATE_EVENT_SECONDS = 30.0


class Unwell(Exception):
    """A program answers a check but does not do its job; the message says what it does not do.

    `curable` means that a restart helps.
    """

    def __init__(self, complaint: str, *, curable: bool = False) -> None:
        super().__init__(complaint)
        self.curable = curable


@dataclass(frozen=True)
class Health:
    """What a check found: no complaint means that the program does its job; `curable`, that a restart may help."""

    complaint: str = ""
    curable: bool = False


@dataclass(frozen=True)
class Account:
    """The account that a program runs as; uid -1 is that of this process.

    `capabilities` is the set of Linux capabilities that it keeps, as a number. `passages` are folders that it reaches
    although one on their paths is closed to it.
    """

    uid: int = -1
    gid: int = -1
    capabilities: int = 0
    passages: tuple[str, ...] = ()

    def with_capabilities(self, more: int) -> "Account":
        return dataclasses.replace(self, capabilities=self.capabilities | more)


@dataclass(frozen=True)
class Program:
    name: str
    command: tuple[str, ...]
    port: int
    # Whether it does its job. False while it starts or recovers; it raises Unwell, or any other error when the
    # program gives no answer.
    ready: Callable[[], Awaitable[bool]]
    # Where Prometheus finds its metrics, on loopback; empty for a program without metrics.
    metrics_url: str = ""
    # The whole environment; empty means that of the supervisor.
    environment: Mapping[str, str] = field(default_factory=dict)
    account: Account = Account()
    # What it needs beyond an account without rights, as in Account.
    capabilities: int = 0
    stop_signal: signal.Signals = signal.SIGTERM
    stop_seconds: float = 20.0
    # Runs before the stop signal, so that requests under way can finish.
    drain: Callable[[], Awaitable[None]] | None = None
    # Runs before each start.
    prepare: Callable[[], Awaitable[None]] | None = None
    # The longest pause before a dead one is started again, in seconds: short for what everything else waits for.
    longest_backoff: float = 30.0

    async def health(self) -> Health:
        """Checks the program. Silence may be cured by a restart; what answers that it is not ready needs time."""
        try:
            async with asyncio.timeout(CHECK_TIMEOUT):
                return Health() if await self.ready() else Health("it is not ready")
        except Unwell as unwell:
            return Health(str(unwell), unwell.curable)
        except Exception as failure:  # noqa: BLE001  whatever went wrong, there was no proper answer
            return Health(f"it does not answer ({type(failure).__name__})", curable=True)


def launch_command(command: tuple[str, ...], account: Account = Account()) -> list[str]:
    """Returns the command line that starts `command` as `account` and ends it when this process ends."""
    identity = (os.getpid(), account.uid, account.gid, account.capabilities)
    numbers = (str(number) for number in identity)
    return [sys.executable, "-I", "-S", str(LAUNCH), *numbers, "\n".join(account.passages), *command]
