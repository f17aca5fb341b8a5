"""The embedded parts for tests: real servers on free ports in a folder that goes with the test run."""

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from meshctl.core.folder import MeshFolder
from meshctl.core.ports import Ports
from meshctl.mesh.parts import nats, postgres, valkey
from meshctl.mesh.process import Process
from meshctl.mesh.program import Program


@asynccontextmanager
async def running(program: Program, folder: Path) -> AsyncIterator[Process]:
    """The program, healthy; stopped at the end."""
    process = Process(program, folder / f"{program.name}.log")
    await process.start()
    try:
        yield process
    finally:
        await process.stop()


async def postgres_program(folder: Path, port: int, password: str) -> Program:
    """PostgreSQL with its data below `folder`, which its account may then enter."""
    MeshFolder(folder).prepare()
    return await postgres.program(folder / "postgres", port, password)


@asynccontextmanager
async def running_postgres(folder: Path) -> AsyncIterator[str]:
    """The superuser's URL of a new PostgreSQL."""
    port, password = Ports().take(), secrets.token_hex(16)
    async with running(await postgres_program(folder, port, password), folder):
        yield postgres.url(port, password)


@asynccontextmanager
async def running_nats(folder: Path) -> AsyncIterator[str]:
    """The operator's URL of a new NATS."""
    (port, monitor), password = (Ports().take(), Ports().take()), secrets.token_hex(16)
    async with running(nats.program(folder / "nats", port, {nats.OPERATOR: password}, monitor), folder):
        yield nats.url(port, nats.OPERATOR, password)


@asynccontextmanager
async def running_valkey(folder: Path) -> AsyncIterator[str]:
    """The operator's URL of a new Valkey."""
    port, password = Ports().take(), secrets.token_hex(16)
    async with running(valkey.program(folder / "valkey", port, {valkey.OPERATOR: password}), folder):
        yield valkey.url(port, valkey.OPERATOR, password)
