"""The data folder of a mesh (`.mesh` by default) and the paths in it."""

import fcntl
import json
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from meshctl.core.failure import OperatorError
from meshctl.core.files import opened_folder, write_private

# That of the current folder or, where it has none, of the repository.
DEFAULT_FOLDER = here if (here := Path(".mesh")).exists() else Path(__file__).parents[2] / here
LEAST_FREE_BYTES = 300 * 1024 * 1024


@dataclass(frozen=True)
class MeshFolder:
    root: Path

    @property
    def postgres(self) -> Path:
        return self.root / "postgres"

    @property
    def nats(self) -> Path:
        return self.root / "nats"

    @property
    def valkey(self) -> Path:
        return self.root / "valkey"

    @property
    def objects(self) -> Path:
        return self.root / "objects"

    @property
    def certificates(self) -> Path:
        return self.root / "certificates"

    @property
    def edge(self) -> Path:
        return self.root / "edge"

    @property
    def edge_admin(self) -> Path:
        """The socket of Envoy's admin interface, in a folder that Envoy may write to."""
        return self.edge / "admin/socket"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def control(self) -> Path:
        return self.root / "control"

    @property
    def processes(self) -> Path:
        return self.root / "processes.json"

    @property
    def dev_env(self) -> Path:
        return self.root / "dev.env"

    @property
    def mesh_id(self) -> str:
        """Marks what the mesh makes on servers that it may share: random, but for PROTOMESH_MESH_ID."""
        return os.environ.get("PROTOMESH_MESH_ID") or self.secrets().get("mesh_id")

    def prepare(self) -> None:
        """Creates the folder; raises OperatorError when it is not writable or its disk is nearly full."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            # Others may pass through, since PostgreSQL may run as another account; every secret is 0600.
            self.root.chmod(0o711)
            self.logs.mkdir(mode=0o700, exist_ok=True)
            write_private(self.root / ".writable", "")
        except PermissionError:
            raise OperatorError(
                f"{self.root} is not writable by this user: choose another folder with --data."
            ) from None
        except (FileExistsError, NotADirectoryError):
            raise OperatorError(f"{self.root} is not a folder: choose another --data.") from None
        free = os.statvfs(self.root)
        if free.f_bavail * free.f_frsize < LEAST_FREE_BYTES:
            raise OperatorError(
                f"The disk of {self.root} is full: free {LEAST_FREE_BYTES >> 20} MiB, or choose --data."
            )

    def lock(self) -> IO[bytes]:
        """Locks the folder for this process until the file is closed; raises OperatorError when it is taken."""
        file = (self.root / "lock").open("ab")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise OperatorError(f"A mesh already runs on {self.root}: stop it with ./scripts/down.") from None
        return file

    def secrets(self) -> "Secrets":
        """The folder's secrets, kept from one start to the next."""
        return Secrets(self.root / "secrets.json")


class Secrets:
    """Named random secrets in a file that only its owner may read; each is created when first requested.

    There are two copies of the file, since without it the mesh's data cannot be read: the second one is used, and
    replaces the first, when the first is damaged or gone.
    """

    def __init__(self, path: Path) -> None:
        self._copies = (path, path.with_name(f"{path.stem}.copy{path.suffix}"))
        self._known = self._read()

    def get(self, name: str) -> str:
        if name not in self._known:
            self._make(name)
        return self._known[name]

    def _make(self, name: str) -> None:
        # Another process on this folder may create some at the same time.
        with opened_folder(self._copies[0].parent) as folder:
            fcntl.flock(folder, fcntl.LOCK_EX)
            self._known = self._read()
            if name not in self._known:
                self._known[name] = secrets.token_hex(24)
                self._write(*self._copies)

    def _read(self) -> dict[str, str]:
        first, second = self._copies
        if not first.exists() and not second.exists():
            return {}
        for copy in self._copies:
            try:
                self._known = dict(json.loads(copy.read_bytes()))
            except (OSError, ValueError, TypeError):
                continue
            if copy is second:
                self._write(first)
            return self._known
        raise OperatorError(
            f"Neither {first} nor {second.name} can be read: put one of them back from a backup. "
            "Without these secrets the data of the mesh cannot be read."
        )

    def _write(self, *copies: Path) -> None:
        for copy in copies:
            write_private(copy, json.dumps(self._known, indent=2), durable=True)
