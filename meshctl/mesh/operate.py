"""Commands for a running mesh: down, status and restart; and the command that issues certificates."""

import time
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import typer
from rich.table import Table

from meshctl.core import deployables
from meshctl.core.failure import OperatorError
from meshctl.core.folder import DEFAULT_FOLDER, MeshFolder
from meshctl.core.terminal import console
from meshctl.mesh import control, housekeeping
from meshctl.pki import certificates

Data = Annotated[Path, typer.Option(envvar="PROTOMESH_DATA", help="Data folder of the mesh.")]
DOWN_SECONDS = 90.0


def down(data: Data = DEFAULT_FOLDER) -> None:
    """Drains and stops the mesh, and returns when it is down."""
    folder = MeshFolder(data.resolve())
    if not folder.root.exists():
        raise OperatorError(f"No mesh runs on {folder.root}: name its data folder with --data.")
    try:
        control.ask(folder.control, {"command": "stop"})
    except OperatorError:
        # Its supervisor may have been killed: then the folder is not locked, and leftover processes are ended below.
        with folder.lock():
            housekeeping.Ledger(folder.processes).end_orphans()
        raise
    deadline = time.monotonic() + DOWN_SECONDS
    while not _free(folder):
        if time.monotonic() > deadline:
            raise OperatorError(
                f"The mesh on {folder.root} is still up after {DOWN_SECONDS:.0f} s: see {folder.logs / 'mesh.log'}."
            )
        time.sleep(0.1)
    print("The mesh is down.")


def status(data: Data = DEFAULT_FOLDER) -> None:
    """Shows each process with its health, ports, memory and uptime. Exit code 1 when one is not healthy."""
    states = control.ask(MeshFolder(data.resolve()).control, {"command": "status"})
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
    console().print(table)
    if not all(state["healthy"] for state in states):
        raise typer.Exit(1)


def restart(service: str, data: Data = DEFAULT_FOLDER) -> None:
    """Restarts a service one worker at a time: with two or more workers, no request fails."""
    control.ask(MeshFolder(data.resolve()).control, {"command": "restart", "service": service})


def issue_certificates(folder: Annotated[Path, typer.Argument(help="Folder for the files.")]) -> None:
    """Issues the certificates of all workloads but `operator`, or renews those that are due."""
    # Containers share the folder, and none of them may become an administrator.
    workloads = [name for name in deployables.workloads() if name != "operator"]
    for name in certificates.issue(folder, workloads):
        print(f"{name}: issued")


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
