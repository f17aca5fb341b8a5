"""One child process: started, watched, restarted with back-off, stopped."""

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path

from meshctl.core.failure import OperatorError
from meshctl.mesh.logs import Follower, Log
from meshctl.mesh.program import Health, Program, launch_command

Say = Callable[[str], None]

READY_INTERVAL = 0.05
FIRST_BACKOFF = 0.5
# A process that ran this long had recovered: its next death restarts the back-off.
SETTLED_SECONDS = 60.0
# A process that fails this many checks in a row is replaced. Together they take half a minute: on a machine that is
# busy a check may be slow, and a restart would only add to its load.
CHECK_SECONDS, FAILED_CHECKS = 5.0, 4


class Process:
    """A program and its current incarnation.

    `say` gets one line for each event that a person should see, `started` the pid of each incarnation.
    """

    def __init__(
        self,
        program: Program,
        log: Path,
        say: Say = print,
        started: Callable[[str, int], None] = lambda _name, _pid: None,
    ) -> None:
        self.program, self.log = program, Log(log)
        self.restarts, self.started_at = 0, 0.0
        self._say, self._started = say, started
        self._child: asyncio.subprocess.Process | None = None
        self._follower: Follower | None = None
        self._watch: asyncio.Task[None] | None = None
        self._stopped = False

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
        await self._launch(within)
        self._watch = asyncio.create_task(self._keep_running())

    async def stop(self) -> None:
        """Sends the program its stop signal, waits for it to drain, and kills it when that takes too long."""
        self._stopped = True
        await self._halt()

    async def restart(self, within: float = 30.0) -> None:
        """Drains the program and starts it again, which does not count as a failure.

        Raises OperatorError as `start` does; then the program is tried again like one that has died.
        """
        await self._halt()
        if self._stopped:
            raise OperatorError(f"{self.name} is not started again: the mesh is stopping.")
        try:
            await self._launch(within)
        finally:
            if not self._stopped:
                self._watch = asyncio.create_task(self._keep_running())

    async def health(self) -> Health:
        """What a check of the program finds."""
        return await self.program.health() if self.pid else Health("it is not running")

    async def _launch(self, within: float) -> None:
        try:
            await self._spawn()
            await self._become_ready(within)
        except OSError as failure:
            raise OperatorError(f"{self.name} could not be started: {reason(str(failure))}") from failure
        except BaseException:
            await self._end()
            raise

    async def _halt(self) -> None:
        if self._watch:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
            self._watch = None
        await self._end()

    async def _spawn(self) -> None:
        program = self.program
        self.log.path.parent.mkdir(parents=True, exist_ok=True)
        if program.prepare:
            await program.prepare()
        reader, writer = os.pipe()
        self._follower = self.log.follow(reader)
        try:
            self._child = await asyncio.create_subprocess_exec(
                *launch_command(program.command, program.account),
                stdin=asyncio.subprocess.DEVNULL, stdout=writer, stderr=writer,
                env=dict(program.environment) or None,
                # Only the supervisor receives the terminal's Ctrl-C; it then drains in the right order.
                start_new_session=True,
            )  # fmt: skip
        finally:
            os.close(writer)
        self.started_at = time.time()
        self._started(self.name, self._child.pid)

    async def _become_ready(self, within: float) -> None:
        try:
            async with asyncio.timeout(within):
                while (await self.health()).complaint:
                    if self.pid is None:
                        raise OperatorError(f"{self.name} ended while it started: {await self._reason()}")
                    await asyncio.sleep(READY_INTERVAL)
        except TimeoutError:
            raise OperatorError(
                f"{self.name} was not healthy after {within:.0f} s: {await self._reason()}"
            ) from None

    async def _reason(self) -> str:
        """The last words of this incarnation."""
        assert self._follower is not None
        if self.pid is None:
            # Its children may keep the pipe open, so there is a limit.
            await asyncio.to_thread(self._follower.join, 1.0)
        return reason(self._follower.last_words)

    async def _keep_running(self) -> None:
        backoff = FIRST_BACKOFF
        while True:
            failure = await self._failure()
            if time.time() - self.started_at > SETTLED_SECONDS:
                backoff = FIRST_BACKOFF
            self._say(f"{self.name} {failure}; starting it again in {backoff:.1f} s")
            await asyncio.sleep(backoff)
            backoff = min(backoff * 2, self.program.longest_backoff)
            self.restarts += 1
            try:
                await self._spawn()
                await self._become_ready(within=60.0)
                self._say(f"{self.name} is healthy again")
            except OperatorError as failed:
                self._say(str(failed))
            except OSError as failed:
                # Say, no memory to fork or no space: like a death, it is tried again.
                self._child = None
                self._say(f"{self.name} could not be started: {reason(str(failed))}")

    async def _failure(self) -> str:
        """Returns once the process has ended or is beyond help, in which case it ends it; says what happened."""
        child = self._child
        if child is None:
            return "does not run"
        ended, hopeless = asyncio.ensure_future(child.wait()), asyncio.ensure_future(self._hopeless())
        try:
            await asyncio.wait((ended, hopeless), return_when=asyncio.FIRST_COMPLETED)
            if ended.done():
                return f"ended ({_how(ended.result())})"
            child.kill()
            await ended
            return f"was killed: {hopeless.result()}"
        finally:
            ended.cancel()
            hopeless.cancel()

    async def _hopeless(self) -> str:
        """Returns the complaint about a process that only a restart can cure, once several checks agree."""
        failed = 0
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            health = await self.health()
            failed = failed + 1 if health.curable else 0
            if failed == FAILED_CHECKS:
                return health.complaint

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


def _how(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"


def reason(words: str) -> str:
    """Returns the sentence for a program that failed with these last lines in its log."""
    if "No space left on device" in words:
        return "the disk is full."
    return words or "it wrote nothing to its log."
