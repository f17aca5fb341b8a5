"""The start of a mesh on a terminal."""

import contextlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any, Self, cast

from rich.console import Console, RenderableType
from rich.markup import escape
from rich.progress import Progress as Steps
from rich.progress import ProgressColumn, SpinnerColumn, Task, TextColumn
from rich.text import Text


class Mark(SpinnerColumn):
    """A spinner, and at the end how the step went."""

    def render(self, task: Task) -> RenderableType:
        if not task.finished:
            return super().render(task)
        return Text("✗", style="red") if task.fields.get("failed") else Text("✓", style="green")


class Seconds(ProgressColumn):
    """How long a step takes, or took."""

    def render(self, task: Task) -> Text:
        seconds = task.finished_time if task.finished_time is not None else task.elapsed or 0.0
        return Text(f"{seconds:5.1f} s", style="dim")


class Output:
    """Standard output, whose terminal may be closed: the mesh starts and drains all the same."""

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stdout, name)

    def write(self, text: str) -> None:
        with contextlib.suppress(OSError):
            sys.stdout.write(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            sys.stdout.flush()


class Spinners:
    """A spinner for each step that runs; above them, what else happens."""

    def __init__(self, columns: int = 0) -> None:
        # Without columns, it is the terminal of this process.
        output = cast("IO[str]", Output())
        self.console = Console(file=output, force_terminal=True, width=columns or None)
        self._steps = Steps(
            TextColumn(" "),
            Mark(style="cyan"),
            TextColumn("{task.description}"),
            Seconds(),
            console=self.console,
        )

    def __enter__(self) -> Self:
        self._steps.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._steps.stop()

    @staticmethod
    def paint(text: str, style: str) -> str:
        """Returns a text in a style, as markup."""
        return f"[{style}]{escape(text)}[/]"

    def show(self, markup: str) -> None:
        """Prints a text in rich's markup, without breaking its lines, so that commands can be copied."""
        self.console.print(markup, highlight=False, soft_wrap=True)

    def say(self, line: str) -> None:
        self.console.print(line, markup=False, highlight=False)

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        step, failed = self._steps.add_task(escape(title), total=1), True
        try:
            yield
            failed = False
        finally:
            self._steps.update(step, completed=1, failed=failed)
