"""Starts the peers of the edge on the tables of catalog's database, and stops them."""

import asyncio
import contextlib
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.goals import FASTAPI, FASTIFY
from bench.mesh import ROOT, BenchMesh
from meshctl.core.ports import Ports

WORKERS = 2
_FASTIFY_FOLDER = Path(__file__).parent / "fastify_shop"
_OLDEST_NODE = 20
_START_SECONDS = 30.0
_INSTALL_SECONDS = 180


@dataclass(frozen=True)
class Peer:
    """A running peer."""

    name: str
    url: str
    pid: int


@contextlib.asynccontextmanager
async def fastapi(mesh: BenchMesh) -> AsyncIterator[Peer]:
    """FastAPI on two uvicorn workers."""
    port = Ports().take()
    environment = {
        "BENCH_OTLP_ENDPOINT": mesh.wiring["targets"]["observer"],
        "BENCH_TLS_DIRECTORY": str(mesh.folder.certificates),
    }
    app = ("-m", "uvicorn", "bench.peers.fastapi_shop:app", "--host", "127.0.0.1", "--port", str(port))
    options = ("--workers", str(WORKERS), "--no-access-log", "--log-level", "warning")
    async with _running(
        FASTAPI, (sys.executable, *app, *options), port, _environment(mesh, environment)
    ) as peer:
        yield peer


@contextlib.asynccontextmanager
async def fastify(mesh: BenchMesh) -> AsyncIterator[Peer]:
    """Fastify on two workers of Node.js; `why_no_fastify` says whether it can run here."""
    port = Ports().take()
    environment = _environment(mesh, {"BENCH_PORT": str(port), "NODE_ENV": "production"})
    command = ("node", str(_FASTIFY_FOLDER / "server.js"))
    async with _running(FASTIFY, command, port, environment) as peer:
        yield peer


def why_no_fastify() -> str:
    """Installs the peer's packages from its lock file; returns why that is not possible, or ""."""
    if not shutil.which("node") or not shutil.which("npm"):
        return "Fastify is left out: Node.js is not installed."
    version = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout.strip()
    if int(version.removeprefix("v").split(".")[0]) < _OLDEST_NODE:
        return f"Fastify is left out: it needs Node.js {_OLDEST_NODE} or later, and this is {version}."
    command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    installed = _FASTIFY_FOLDER / "node_modules" / ".package-lock.json"
    if (
        installed.exists()
        and installed.stat().st_mtime >= (_FASTIFY_FOLDER / "package-lock.json").stat().st_mtime
    ):
        return ""
    try:
        subprocess.run(
            command, cwd=_FASTIFY_FOLDER, check=True, capture_output=True, text=True, timeout=_INSTALL_SECONDS
        )
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        return f"Fastify is left out: npm ci failed. {str(error.stderr or error).strip()[-300:]}"
    return ""


def _environment(mesh: BenchMesh, own: Mapping[str, str]) -> dict[str, str]:
    shared = {"BENCH_DATABASE_URL": mesh.wiring["database_urls"]["catalog"], "BENCH_JWKS": mesh.jwks}
    return os.environ | shared | own


@contextlib.asynccontextmanager
async def _running(
    name: str, command: Sequence[str], port: int, environment: Mapping[str, str]
) -> AsyncIterator[Peer]:
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, env=environment)
    try:
        await _listening(name, process, port)
        yield Peer(name, f"http://127.0.0.1:{port}", process.pid)
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def _listening(name: str, process: asyncio.subprocess.Process, port: int) -> None:
    async with asyncio.timeout(_START_SECONDS):
        while process.returncode is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.2):
                return
            await asyncio.sleep(0.1)
    raise RuntimeError(f"{name} ended with {process.returncode} before it listened.")
