"""`meshctl probe`: checks whether a deployable on this machine is serving, for health checks of containers."""

import asyncio
import os
from pathlib import Path

import typer

from meshctl.mesh.services import Health, Worker


def probe(service: str, port: int = 9000, metrics_port: int = 9100) -> None:
    """Checks the health of a service on this machine over mTLS. The exit code is 1 unless it is serving."""
    certificates = Path(os.environ["PROTOMESH_TLS_DIRECTORY"])
    worker = Worker(service, 1, port, metrics_port)
    try:
        serving = asyncio.run(Health(certificates, worker).serving())
    except ConnectionError:
        serving = False
    if not serving:
        raise typer.Exit(1)
