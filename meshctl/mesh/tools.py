"""Commands that a service implements: each is started as a separate program with the addresses of the mesh."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import typer

from meshctl.core.arguments import Data
from meshctl.core.failure import OperatorError
from meshctl.core.folder import DEFAULT_FOLDER
from meshctl.mesh.running import RunningMesh

IMPORTING = "services.catalog.importing"
RECONCILING = "services.ordering.reconcile"


def import_files(
    context: typer.Context,
    data: Data = DEFAULT_FOLDER,
) -> None:
    """Import files as the operator of the mesh.

    The command is the catalog's own.
    """
    raise typer.Exit(run(IMPORTING, context.args, known_of(data)))


def reconcile(
    context: typer.Context,
    data: Data = DEFAULT_FOLDER,
) -> None:
    """Compare the records of ordering and catalog.

    The command is ordering's own.
    """
    mesh = RunningMesh.on(data)
    raise typer.Exit(run(RECONCILING, context.args, mesh.variables("ordering")))


def known_of(data: Path) -> dict[str, str]:
    """Returns the variables by which a command finds a mesh and its operator's certificate; none without a mesh."""
    try:
        mesh = RunningMesh.on(data)
    except OperatorError:
        return {}
    return {"EDGE_URL": mesh.edge_url, **mesh.addresses()}


def run(module: str, arguments: Sequence[str], told: Mapping[str, str]) -> int:
    """Runs `python -m module` and returns its exit code. Variables that are set already take precedence."""
    return subprocess.run(_command(module, arguments), env={**told, **os.environ}, check=False).returncode


def run_quietly(module: str, arguments: Sequence[str], told: Mapping[str, str]) -> None:
    """Runs `python -m module` as the mesh says, over the environment. Raises OperatorError with its last line."""
    command = _command(module, arguments)
    ended = subprocess.run(command, env={**os.environ, **told}, check=False, capture_output=True, text=True)
    if ended.returncode:
        raise OperatorError(ended.stderr.strip().rpartition("\n")[2])


def _command(module: str, arguments: Sequence[str]) -> list[str]:
    return [sys.executable, "-P", "-m", module, *arguments]
