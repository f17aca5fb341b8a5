"""One child process: started, watched, restarted with back-off, stopped."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

from meshctl.core.failure import OperatorError
from meshctl.mesh.program import Program, launch_command

Say = Callable[[str], None]

READY_INTERVAL = 0.05
FIRST_BACKOFF, LONGEST_BACKOFF = 0.5, 30.0
# A process that ran this long had recovered: its next death restarts the back-off.
SETTLED_SECONDS = 60.0


class Process:
    """A program and its current incarnation; `say` gets one line for each event that a person should see."""

    def __init__(self, program: Program, log: Path, say: Say = print) -> None:
        self.program, self.log = program, log
        self.restarts, self.started_at = 0, 0.0
        self._say = say
        self._child: asyncio.subprocess.Process | None = None
        self._watch: asyncio.Task[None] | None = None

    @property
    def name(self) -> str:
        return self.program.name

    @property
    def pid(self) -> int | None:
        return self._child.pid if self._child and self._child.returncode is None else None

    async def start(self, within: float = 30.0) -> None:
        """Starts the program, returns once it is healthy, and keeps it running from then on.

        Raises OperatorError when it ends or stays unhealthy for `within` seconds.
        """
        await self._spawn()
        try:
            await self._become_ready(within)
        except BaseException:
            await self._end()
            raise
        self._watch = asyncio.create_task(self._keep_running())

    async def stop(self) -> None:
        """Sends the program its stop signal, waits for it to drain, and kills it when that takes too long."""
        if self._watch:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
            self._watch = None
        await self._end()

    async def restart(self, within: float = 30.0) -> None:
        """Drains the program and starts it again, which does not count as a failure."""
        await self.stop()
        await self.start(within)

    async def healthy(self) -> bool:
        return self.pid is not None and await _answers(self.program)

    def last_words(self, lines: int = 5) -> str:
        """The end of the program's log."""
        with self.log.open("rb") as log:
            log.seek(max(0, log.seek(0, 2) - 4096))
            return "\n".join(log.read().decode(errors="replace").splitlines()[-lines:])

    async def _spawn(self) -> None:
        program = self.program
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self._child = await asyncio.create_subprocess_exec(
                *launch_command(program.command, program.account),
                stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log,
                env=dict(program.environment) or None,
                # Only the supervisor receives the terminal's Ctrl-C; it then drains in the right order.
                start_new_session=True,
            )  # fmt: skip
        self.started_at = time.time()

    async def _become_ready(self, within: float) -> None:
        try:
            async with asyncio.timeout(within):
                while not await self.healthy():
                    if self.pid is None:
                        raise OperatorError(
                            f"{self.name} ended while it started: {reason(self.last_words())}"
                        )
                    await asyncio.sleep(READY_INTERVAL)
        except TimeoutError:
            words = reason(self.last_words())
            raise OperatorError(f"{self.name} was not healthy after {within:.0f} s: {words}") from None

    async def _keep_running(self) -> None:
        backoff = FIRST_BACKOFF
        while True:
            assert self._child is not None
            code = await self._child.wait()
            if time.time() - self.started_at > SETTLED_SECONDS:
                backoff = FIRST_BACKOFF
            self._say(f"{self.name} ended ({_how(code)}); starting it again in {backoff:.1f} s")
            await asyncio.sleep(backoff)
            backoff = min(backoff * 2, LONGEST_BACKOFF)
            self.restarts += 1
            await self._spawn()
            try:
                await self._become_ready(within=60.0)
                self._say(f"{self.name} is healthy again")
            except OperatorError as failure:
                self._say(str(failure))

    async def _end(self) -> None:
        child = self._child
        if child is None or child.returncode is not None:
            return
        if self.program.drain:
            await self.program.drain()
        child.send_signal(self.program.stop_signal)
        try:
            await asyncio.wait_for(child.wait(), self.program.stop_seconds)
        except TimeoutError:
            self._say(f"{self.name} did not end within {self.program.stop_seconds:.0f} s; killed")
            child.kill()
            await child.wait()


async def _answers(program: Program) -> bool:
    try:
        return await asyncio.wait_for(program.ready(), 2.0)
    except (OSError, TimeoutError, EOFError):
        return False


def _how(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"


def reason(words: str) -> str:
    """Returns the sentence for a program that failed with these last lines in its log."""
    if "No space left on device" in words:
        return "the disk is full."
    return words or "it wrote nothing to its log."
