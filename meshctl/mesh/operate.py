"""Commands for a running mesh: down, status, restart and open."""

import sys
import time
import webbrowser
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer
from rich.table import Table

from meshctl.core import deployables
from meshctl.core.arguments import AsJson, Data
from meshctl.core.failure import OperatorError
from meshctl.core.folder import DEFAULT_FOLDER, MeshFolder
from meshctl.core.terminal import console, print_json
from meshctl.mesh import control, housekeeping

DOWN_SECONDS = 90.0


def down(data: Data = DEFAULT_FOLDER) -> None:
    """Drain and stop the mesh.

    Returns when it is down, which it may have been before.
    """
    folder = MeshFolder(data.resolve())
    if not folder.root.exists() and data != DEFAULT_FOLDER:
        raise OperatorError(
            f"There is no folder {folder.root}: name the data folder of the mesh with --data."
        )
    try:
        control.ask(folder.control, {"command": "stop"})
    except control.NotRunning:
        if folder.root.exists():
            # Its supervisor may have been killed: then the folder is not locked, and leftover processes are ended here.
            with folder.lock():
                housekeeping.Ledger(folder.processes).end_orphans()
        print(f"No mesh runs on {folder.root}.")
        return
    deadline = time.monotonic() + DOWN_SECONDS
    while not _free(folder):
        if time.monotonic() > deadline:
            raise OperatorError(
                f"The mesh on {folder.root} is still up after {DOWN_SECONDS:.0f} s: see {folder.logs / 'mesh.log'}."
            )
        time.sleep(0.1)
    print("The mesh is down.")


def status(as_json: AsJson = False, data: Data = DEFAULT_FOLDER) -> None:
    """Show each process: health, port, memory, uptime.

    The exit code is 1 when one is not healthy.
    """
    states = control.ask(MeshFolder(data.resolve()).control, {"command": "status"})
    print_json(states) if as_json else console().print(_table(states))
    if not all(state["healthy"] for state in states):
        raise typer.Exit(1)


def _table(states: list[dict[str, Any]]) -> Table:
    table = Table("process", "health", "pid", "port", "metrics", "memory", "uptime", "restarts", "", box=None)
    for state in states:
        table.add_row(
            state["name"],
            "[green]healthy[/]" if state["healthy"] else "[red]not healthy[/]",
            str(state["pid"] or "-"),
            str(state["port"]),
            str(urlsplit(state["metrics_url"]).port or "-"),
            f"{state['memory'] / 2**20:.0f} MiB",
            _duration(state["uptime"]),
            str(state["restarts"]),
            state["complaint"],
        )
    memory = sum(state["memory"] for state in states) / 2**20
    table.add_row("all", "", "", "", "", f"{memory:.0f} MiB", "", "", "")
    return table


def restart(
    service: Annotated[str, typer.Argument(autocompletion=deployables.deployables, help="Such as catalog.")],
    data: Data = DEFAULT_FOLDER,
) -> None:
    """Restart a service, one worker at a time.

    With two or more workers, no request fails.
    """
    control.ask(MeshFolder(data.resolve()).control, {"command": "restart", "service": service})


def open_(data: Data = DEFAULT_FOLDER) -> None:
    """Print the URL of the edge, and open it in a browser.

    Without a terminal, it prints the URL only.
    """
    url = control.ask(MeshFolder(data.resolve()).control, {"command": "wiring"})["edge_url"]
    print(url)
    if sys.stdout.isatty():
        webbrowser.open(url)


def _free(folder: MeshFolder) -> bool:
    try:
        folder.lock().close()
    except OperatorError:
        return False
    return True


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02}m" if hours else f"{minutes}m{rest:02}s" if minutes else f"{rest}s"
