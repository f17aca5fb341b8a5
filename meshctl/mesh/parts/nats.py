"""The embedded NATS with JetStream."""

import asyncio
import json
import sys
from pathlib import Path

from meshctl.core.files import write_private
from meshctl.mesh.program import Program

BINARY = Path(sys.executable).parent / "nats-server"


def program(folder: Path, port: int, password: str) -> Program:
    """NATS with its streams in `folder`; every message is on disk before it is acknowledged."""
    configuration = folder / "nats.json"
    folder.mkdir(parents=True, exist_ok=True)
    write_private(configuration, json.dumps(_configuration(folder, port, password), indent=2))
    return Program(
        name="nats",
        command=(str(BINARY), "--config", str(configuration)),
        port=port,
        ready=lambda: _greets(port),
    )


def url(port: int, password: str) -> str:
    return f"nats://mesh:{password}@127.0.0.1:{port}"


def _configuration(folder: Path, port: int, password: str) -> dict[str, object]:
    return {
        "host": "127.0.0.1",
        "port": port,
        "authorization": {"user": "mesh", "password": password},
        "jetstream": {"store_dir": str(folder / "jetstream"), "sync_interval": "always"},
    }


async def _greets(port: int) -> bool:
    """Whether NATS greets a connection: it opens its port only after JetStream has recovered."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        return (await reader.read(5)).startswith(b"INFO")
    finally:
        writer.close()
