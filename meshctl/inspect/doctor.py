"""`meshctl doctor`: what is wrong with the machine, the set-up and the mesh, and what to do about it."""

import dataclasses
from collections.abc import Iterator

import typer
from rich.console import Console
from rich.markup import escape

from meshctl.core.arguments import AsJson, Data
from meshctl.core.folder import DEFAULT_FOLDER, MeshFolder
from meshctl.core.terminal import console, print_json
from meshctl.inspect import check_machine, check_mesh
from meshctl.inspect.finding import Finding
from meshctl.mesh import control

_MARKS = {"ok": "[green]✓[/]", "warning": "[yellow]![/]", "problem": "[red]✗[/]"}


def doctor(as_json: AsJson = False, data: Data = DEFAULT_FOLDER) -> None:
    """Check the machine and the mesh, and say what to do.

    The exit code is 1 when there is a problem; a warning is none.
    """
    found: list[Finding] = []
    screen = console()
    for finding in _findings(MeshFolder(data.resolve())):
        found.append(finding)
        if not as_json:
            _show(finding, screen)
    if as_json:
        print_json([dataclasses.asdict(finding) for finding in found])
    if any(finding.state == "problem" for finding in found):
        raise typer.Exit(1)


def _findings(folder: MeshFolder) -> Iterator[Finding]:
    try:
        states = control.ask(folder.control, {"command": "status"})
    except control.NotRunning:
        states = []
    yield from check_machine.findings(folder, runs=bool(states))
    yield from check_mesh.findings(folder, states)


def _show(finding: Finding, screen: Console) -> None:
    said = f"{_MARKS[finding.state]} [bold]{finding.subject:<13}[/] {escape(finding.found)}"
    screen.print(said, highlight=False, soft_wrap=True)
    if finding.advice:
        screen.print(f"{'':<16}→ {escape(finding.advice)}", highlight=False, soft_wrap=True)
