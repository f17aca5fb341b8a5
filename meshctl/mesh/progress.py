"""What a person sees while the mesh starts and runs: each step with its state and its time, and each event."""

import contextlib
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from meshctl.mesh.spinners import Spinners

# Set for a mesh that starts in the background: it draws on the terminal of the process that started it.
COLUMNS = "PROTOMESH_TERMINAL_COLUMNS"


class Progress:
    """Shows events and steps: with spinners on a terminal while the mesh starts, as lines otherwise."""

    def __init__(self) -> None:
        self._spinners: Spinners | None = None

    @contextmanager
    def drawn(self) -> Iterator["Spinners | None"]:
        """Draws on the terminal, if there is one, for as long as the block runs."""
        columns = int(os.environ.pop(COLUMNS, 0))
        if not columns and not sys.stdout.isatty():
            yield None
            return
        # Needed on a terminal only, and takes memory.
        from meshctl.mesh.spinners import Spinners

        with Spinners(columns) as self._spinners:
            yield self._spinners
        self._spinners = None

    def say(self, line: str) -> None:
        """Shows an event."""
        if self._spinners:
            self._spinners.say(line)
            return
        # The terminal may be closed, and the disk of the log full: the mesh is kept and drained all the same.
        with contextlib.suppress(OSError):
            print(line, flush=True)

    def step(self, title: str) -> AbstractContextManager[None]:
        """Shows a step for as long as the block runs, and how it ended."""
        return self._spinners.step(title) if self._spinners else self._line(title)

    @contextmanager
    def _line(self, title: str) -> Iterator[None]:
        began, mark = time.monotonic(), "✗"
        try:
            yield
            mark = "✓"
        finally:
            self.say(f"  {mark} {title} ({time.monotonic() - began:.1f} s)")


def for_terminal() -> dict[str, str]:
    """Returns the variables for a mesh that starts in the background of this process's terminal, if it has one."""
    return {COLUMNS: str(shutil.get_terminal_size().columns)} if sys.stdout.isatty() else {}
