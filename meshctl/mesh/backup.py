"""`meshctl dump` and `meshctl restore`: all databases of a mesh and its objects, in one file.

Both work on a mesh that is down, so that the databases are of one moment. Streams are not in the file: their owners
fill them again. Secrets are not either: they are kept apart from what they protect.
"""

import asyncio
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Annotated

import typer
from psycopg.conninfo import conninfo_to_dict

from meshctl.core import deployables
from meshctl.core.arguments import Data
from meshctl.core.failure import OperatorError
from meshctl.core.folder import DEFAULT_FOLDER, MeshFolder
from meshctl.core.ports import Ports
from meshctl.databases import provisioning
from meshctl.mesh.parts import postgres
from meshctl.mesh.process import Process

OBJECTS = "objects"


def dump(
    file: Annotated[Path, typer.Argument(help="The file to write; only its owner may read it.")],
    data: Data = DEFAULT_FOLDER,
) -> None:
    """Write databases and objects to a file.

    The mesh must be down. Keep its `secrets.json` too, apart from the file.
    """
    folder = MeshFolder(data.resolve())
    if not (folder.postgres / "PG_VERSION").exists():
        raise OperatorError(f"There are no databases in {folder.root}: name the data folder with --data.")
    with folder.lock(), _private(file) as draft, tempfile.TemporaryDirectory(dir=folder.root) as parts:
        asyncio.run(_dump(folder, Path(parts)))
        with tarfile.open(draft, "w") as archive:
            for part in sorted(Path(parts).iterdir()):
                archive.add(part, part.name)
            if folder.objects.exists():
                archive.add(folder.objects, OBJECTS)


def restore(
    file: Annotated[Path, typer.Argument(help="A file that `meshctl dump` wrote.")],
    data: Data = DEFAULT_FOLDER,
) -> None:
    """Read databases and objects from a file.

    They go into a new data folder, which has the mesh's `secrets.json`.
    """
    folder = MeshFolder(data.resolve())
    folder.prepare()
    if folder.postgres.exists():
        raise OperatorError(f"There are databases in {folder.root} already: choose a new folder with --data.")
    if not (folder.root / "secrets.json").exists():
        raise OperatorError(
            f"Put the secrets.json of the mesh into {folder.root} first: without it the data cannot be read."
        )
    with folder.lock(), tempfile.TemporaryDirectory(dir=folder.root) as parts:
        _unpack(file, Path(parts))
        try:
            asyncio.run(_restore(folder, Path(parts)))
        except BaseException:
            # So that it can be tried again.
            shutil.rmtree(folder.postgres, ignore_errors=True)
            raise
        if (objects := Path(parts, OBJECTS)).exists():
            shutil.copytree(objects, folder.objects, dirs_exist_ok=True)


async def _dump(folder: MeshFolder, parts: Path) -> None:
    async with _running(folder) as url:
        for service in deployables.with_database():
            into = parts / f"{service}.dump"
            await _run("pg_dump", url, service, "--format=custom", "--no-owner", f"--file={into}")


async def _restore(folder: MeshFolder, parts: Path) -> None:
    secrets = folder.secrets()
    dumps = sorted(parts.glob("*.dump"))
    passwords = {dump.stem: secrets.get(f"database.{dump.stem}") for dump in dumps}
    async with _running(folder) as url:
        await asyncio.to_thread(provisioning.create, url, passwords, folder.mesh_id, alone=True)
        for file in dumps:
            # As the service's role, which thereby owns everything.
            options = ("--exit-on-error", "--no-owner", f"--role={provisioning.name_of(file.stem)}")
            database = f"--dbname={provisioning.name_of(file.stem)}"
            await _run("pg_restore", url, file.stem, *options, database, str(file))


@asynccontextmanager
async def _running(folder: MeshFolder) -> AsyncIterator[str]:
    """The superuser's URL of the folder's own PostgreSQL."""
    port, password = Ports().take(), folder.secrets().get("postgresql")
    process = Process(await postgres.program(folder.postgres, port, password), folder.logs / "postgres.log")
    await process.start()
    try:
        yield postgres.url(port, password)
    finally:
        await process.stop()


async def _run(program: str, url: str, service: str, *options: str) -> None:
    # By the environment, since everyone on this machine can read the arguments.
    where = conninfo_to_dict(url, dbname=provisioning.name_of(service))
    names = {
        "host": "PGHOST",
        "port": "PGPORT",
        "user": "PGUSER",
        "password": "PGPASSWORD",
        "dbname": "PGDATABASE",
    }
    environment = {**os.environ, **{names[key]: str(value) for key, value in where.items()}}
    command = (str(postgres.program_file(program)), *options)
    ended = await asyncio.to_thread(
        subprocess.run, command, env=environment, capture_output=True, text=True, check=False
    )
    if ended.returncode:
        raise OperatorError(f"The database of {service}: {ended.stderr.strip()[-400:]}")


def _unpack(file: Path, parts: Path) -> None:
    try:
        with tarfile.open(file) as archive:
            archive.extractall(parts, filter="data")
    except (OSError, tarfile.TarError) as failure:
        raise OperatorError(f"{file} cannot be read as a file of `meshctl dump`: {failure}.") from None


@contextmanager
def _private(file: Path) -> Iterator[Path]:
    """A draft beside the file that only its owner may read, and that replaces the file when it is complete."""
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        draft.touch(mode=0o600)
        yield draft
        draft.replace(file)
    except OSError as failure:
        raise OperatorError(f"{file} cannot be written: {failure.strerror}.") from None
    finally:
        draft.unlink(missing_ok=True)
