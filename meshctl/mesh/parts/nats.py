"""The embedded NATS with JetStream."""

import asyncio
import json
import os
import re
import sys
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any

from chassis.events import permissions
from meshctl.core import loopback
from meshctl.core.files import write_private
from meshctl.mesh.program import Program, Unwell

BINARY = Path(sys.executable).parent / "nats-server"
# The user of the operator's tools, who may do everything.
OPERATOR = "operator"


# A stream that could not be written stays closed until NATS starts again, which makes sense once there is space.
SPACE_BYTES = 16 * 1024 * 1024


def program(folder: Path, port: int, passwords: Mapping[str, str], monitor: int) -> Program:
    """NATS with its streams in `folder`; every message is on disk before it is acknowledged.

    `passwords` are those of its users: the operator and the services. `monitor` is the loopback port on which it tells
    how its streams are.
    """
    configuration = folder / "nats.json"
    folder.mkdir(parents=True, exist_ok=True)
    write_private(configuration, json.dumps(_configuration(folder, port, passwords, monitor), indent=2))
    return Program(
        name="nats",
        command=(str(BINARY), "--config", str(configuration)),
        port=port,
        ready=lambda: _stores(folder, port, monitor),
        longest_backoff=2.0,
    )


def url(port: int, user: str, password: str) -> str:
    return f"nats://{user}:{password}@127.0.0.1:{port}"


def authorization(passwords: Mapping[str, str]) -> dict[str, Any]:
    """The section `authorization` of NATS's configuration: its users, each service with what its contracts allow."""
    return {"users": [_user(name, password) for name, password in passwords.items()]}


def users_file(names: Iterable[str]) -> str:
    """NATS's configuration of users for a server that is not embedded, with passwords from its environment."""
    section = authorization({name: f"NATS_PASSWORD_{name.upper()}" for name in names})
    text = json.dumps({"authorization": section}, indent=2)
    # NATS replaces a variable that is not in quotation marks.
    return re.sub(r'"(NATS_PASSWORD_\w+)"', r"$\1", text) + "\n"


def _user(name: str, password: str) -> dict[str, Any]:
    known = {"user": name, "password": password}
    if name == OPERATOR:
        return known
    allowed = permissions.of_service(name)
    return {
        **known,
        "permissions": {
            "publish": {"allow": allowed.publish, "deny": allowed.never},
            "subscribe": {"allow": allowed.subscribe},
        },
    }


def _configuration(folder: Path, port: int, passwords: Mapping[str, str], monitor: int) -> dict[str, object]:
    disk = os.statvfs(folder)
    return {
        "host": "127.0.0.1",
        "port": port,
        "http": f"127.0.0.1:{monitor}",
        "authorization": authorization(passwords),
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
