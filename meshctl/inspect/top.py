"""`meshctl top`: what all RPCs are doing, from the metrics of the services."""

import contextlib
import dataclasses
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import RenderableType
from rich.live import Live
from rich.table import Table

from meshctl.core import deployables
from meshctl.core.arguments import Data
from meshctl.core.failure import OperatorError
from meshctl.core.folder import DEFAULT_FOLDER, MeshFolder
from meshctl.core.suggestions import among
from meshctl.core.terminal import console, print_json
from meshctl.inspect.rates import Rate, counts, rates
from meshctl.inspect.scrape import samples
from meshctl.mesh import control


def top(
    service: Annotated[
        str, typer.Argument(autocompletion=deployables.deployables, help="Only RPCs of this service.")
    ] = "",
    seconds: Annotated[float, typer.Option(min=0.2, help="The interval that each look covers.")] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Look once, and end.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Look once, and write JSON.")] = False,
    data: Data = DEFAULT_FOLDER,
) -> None:
    """Show each RPC: rate, errors, p50, p95, in flight.

    Errors are all calls that did not end with OK. Without a terminal, it looks once.
    """
    if service and service not in deployables.deployables():
        raise OperatorError(f"There is no service {service!r}: {among(service, deployables.deployables())}")
    looks = Looks(data, service, seconds)
    screen = console()
    if as_json:
        print_json([dataclasses.asdict(rate) for rate in looks.next()])
    elif once or not screen.is_terminal:
        screen.print(_table(looks.next()))
    else:
        with (
            Live("", console=screen, screen=True, auto_refresh=False) as live,
            contextlib.suppress(KeyboardInterrupt),
        ):
            while True:
                live.update(_table(looks.next(), _title()), refresh=True)


class Looks:
    """Looks at a mesh, each at what happened since the one before."""

    def __init__(self, data: Path, service: str, seconds: float) -> None:
        self._folder = MeshFolder(data.resolve())
        self._service, self._seconds = service, seconds
        self._began, self._before = time.monotonic(), self._counts()

    def next(self) -> list[Rate]:
        """Returns what happened, when the interval is over."""
        time.sleep(max(0.0, self._began + self._seconds - time.monotonic()))
        began, now = time.monotonic(), self._counts()
        found = rates(self._before, now, began - self._began)
        self._began, self._before = began, now
        return [rate for rate in found if self._service in ("", rate.service)]

    def _counts(self) -> Any:
        return counts(samples(control.ask(self._folder.control, {"command": "status"})))


def _title() -> str:
    return f"{time.strftime('%H:%M:%S')}  calls that each service took; Ctrl-C ends"


def _table(found: list[Rate], title: str | None = None) -> RenderableType:
    table = Table("service", "RPC", box=None, title=title, title_justify="left", title_style="dim")
    for name in ("calls/s", "errors", "p50 ms", "p95 ms", "in flight"):
        table.add_column(name, justify="right")
    for rate in found:
        errors = f"{rate.errors:.1%}" if rate.errors else ""
        figures = (f"{rate.rate:.1f}", f"[red]{errors}[/]" if errors else "", _ms(rate.p50), _ms(rate.p95))
        table.add_row(rate.service, rate.rpc, *figures, str(rate.in_flight or ""))
    return table if found else "No RPC was called meanwhile."


def _ms(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"
