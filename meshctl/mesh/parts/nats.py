"""The embedded NATS with JetStream."""

import asyncio
import json
import os
import sys
from http import HTTPStatus
from pathlib import Path

from meshctl.core import loopback
from meshctl.core.files import write_private
from meshctl.mesh.program import Program, Unwell

BINARY = Path(sys.executable).parent / "nats-server"


# A stream that could not be written stays closed until NATS starts again, which makes sense once there is space.
SPACE_BYTES = 16 * 1024 * 1024


def program(folder: Path, port: int, password: str, monitor: int) -> Program:
    """NATS with its streams in `folder`; every message is on disk before it is acknowledged.

    `monitor` is the loopback port on which it tells how its streams are.
    """
    configuration = folder / "nats.json"
    folder.mkdir(parents=True, exist_ok=True)
    write_private(configuration, json.dumps(_configuration(folder, port, password, monitor), indent=2))
    return Program(
        name="nats",
        command=(str(BINARY), "--config", str(configuration)),
        port=port,
        ready=lambda: _stores(folder, port, monitor),
        longest_backoff=2.0,
    )


def url(port: int, password: str) -> str:
    return f"nats://mesh:{password}@127.0.0.1:{port}"


def _configuration(folder: Path, port: int, password: str, monitor: int) -> dict[str, object]:
    disk = os.statvfs(folder)
    return {
        "host": "127.0.0.1",
        "port": port,
        "http": f"127.0.0.1:{monitor}",
        "authorization": {"user": "mesh", "password": password},
        "jetstream": {
            "store_dir": str(folder / "jetstream"),
            "sync_interval": "always",
            # By default it is a part of what was free at the start, less than the streams after a full disk.
            "max_file_store": disk.f_blocks * disk.f_frsize,
        },
    }


async def _stores(folder: Path, port: int, monitor: int) -> bool:
    """Whether NATS takes connections and can write to every stream; False while it recovers its streams."""
    status, answer = await loopback.request(monitor, "/healthz")
    try:
        greets = await _greets(port)
    except ConnectionRefusedError:
        # It answers here from its first moment, however long the recovery takes: that is no reason to end it.
        return False
    if status == HTTPStatus.OK:
        return greets
    disk = os.statvfs(folder)
    if disk.f_bavail * disk.f_frsize < SPACE_BYTES:
        raise Unwell("it cannot store events: the disk is full")
    raise Unwell(f"it cannot store events: {json.loads(answer).get('error', '')}", curable=True)


async def _greets(port: int) -> bool:
    """Whether NATS greets a connection: it opens its port only after JetStream has recovered."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        return (await reader.read(5)).startswith(b"INFO")
    finally:
        writer.close()
