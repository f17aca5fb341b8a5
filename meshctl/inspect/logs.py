"""`meshctl logs`: the logs of all processes as one, in the order of time."""

import contextlib
import json
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from meshctl.core import deployables
from meshctl.core.arguments import Data
from meshctl.core.failure import OperatorError
from meshctl.core.folder import DEFAULT_FOLDER, MeshFolder
from meshctl.core.suggestions import among
from meshctl.core.terminal import console
from meshctl.inspect.log_lines import Line, LogFile

LOOK_SECONDS = 0.2
# Of each log, unless a trace is searched for.
TAIL_BYTES = 1 << 20
_STYLES = {"warning": "yellow", "error": "bold red", "critical": "bold red", "debug": "dim"}


def logs(
    service: Annotated[
        str,
        typer.Argument(
            autocompletion=deployables.deployables, help="Such as catalog, catalog-1, edge or postgres."
        ),
    ] = "",
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with what comes, until Ctrl-C.")
    ] = False,
    trace: Annotated[str, typer.Option(help="Only lines about this trace.")] = "",
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="Lines at the most, the latest.")] = 50,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line, with all fields.")] = False,
    data: Data = DEFAULT_FOLDER,
) -> None:
    """Show the logs of all processes as one.

    It reads files, so that it works for a mesh that is down too.
    """
    folder = MeshFolder(data.resolve()).logs
    trace = trace.lower()
    files = [
        LogFile(path, (1 << 62) if trace else TAIL_BYTES)
        for path in _paths(folder, service, older=bool(trace))
    ]
    show = _show_json if as_json else _show
    with contextlib.suppress(KeyboardInterrupt):
        found = _read(files, trace)
        for line in found[max(0, len(found) - lines) :]:
            show(line)
        while follow:
            time.sleep(LOOK_SECONDS)
            for line in _read(files, trace):
                show(line)


def _paths(folder: Path, service: str, *, older: bool) -> list[Path]:
    paths = sorted(folder.glob("*.log")) + (sorted(folder.glob("*.log.1")) if older else [])
    if not paths:
        raise OperatorError(
            f"There are no logs in {folder}: start a mesh with ./scripts/up, or choose --data."
        )
    chosen = [path for path in paths if service in ("", *_names(path))]
    if not chosen:
        known = {name for path in paths for name in _names(path)}
        raise OperatorError(f"There is no log of {service!r}: {among(service, known)}")
    return chosen


def _names(path: Path) -> tuple[str, str]:
    """The process of a log, and its service."""
    process = path.name.partition(".log")[0]
    return process, process.rstrip("-0123456789").removesuffix("-worker")


def _read(files: Iterable[LogFile], trace: str) -> list[Line]:
    found = (line for file in files for line in _of(file))
    return sorted((line for line in found if trace in ("", line.trace_id)), key=lambda line: line.moment)


def _of(file: LogFile) -> Iterator[Line]:
    # A process writes its log's next file a moment after it moved the last one away.
    with contextlib.suppress(FileNotFoundError):
        yield from file.read()


def _show(line: Line) -> None:
    moment = f"{line.moment.astimezone():%H:%M:%S.%f}"[:-3]
    style = _STYLES.get(line.level)
    text = escape(line.summary)
    text = f"[{style}]{text}[/]" if style else text
    trace = f" [dim]{line.trace_id}[/]" if line.trace_id else ""
    _CONSOLE.print(
        f"[dim]{moment}[/] [cyan]{escape(line.process):<12}[/] {line.level:<7} {text}{trace}",
        highlight=False,
        soft_wrap=True,
    )


def _show_json(line: Line) -> None:
    fields = line.fields or {"message": line.text}
    known = {"time": line.moment.isoformat(), "process": line.process}
    print(json.dumps({**known, **fields}, ensure_ascii=False), flush=True)


_CONSOLE = console()
