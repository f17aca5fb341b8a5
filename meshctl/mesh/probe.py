"""`meshctl probe`: whether a deployable on this machine serves, for the health checks of containers."""

import asyncio
import os
from pathlib import Path

import typer

from meshctl.mesh.services import Health, Worker


def probe(service: str, port: int = 9000, metrics_port: int = 9100) -> None:
    """Asks a service of this machine for its health over mTLS. Exit code 1 unless it serves."""
    certificates = Path(os.environ["PROTOMESH_TLS_DIRECTORY"])
    worker = Worker(service, 1, port, metrics_port)
    if not asyncio.run(Health(certificates, worker).serving()):
        raise typer.Exit(1)
