"""The account that the programs of a mesh run as: for root an unprivileged one, see docs/decisions/accounts.md."""

import compileall
import functools
import os
import pwd
import stat
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

from meshctl.core.failure import OperatorError
from meshctl.core.folder import MeshFolder
from meshctl.mesh.program import CAP_DAC_READ_SEARCH, Account, launch_command
from meshctl.pki.certificates import UNSHARED

ROOT = Path(__file__).resolve().parents[2]
# Free of any use in the list of systemd (systemd.io/UIDS-GIDS), and below what a container's mapping ends at.
UNUSED = range(60578, 61184)
# Reads code of the project, of a package, and the data folder.
PROBE = "import os, sys, services, typing_extensions; os.stat(sys.argv[1] + '/logs')"


@functools.cache
def of_mesh(data: Path) -> Account:
    """Returns the account for the programs of the mesh on a data folder, which must exist.

    For an ordinary user it is that user. For root it has no rights, and no name; where a folder on a path that it needs
    is closed, it gets a view of the file system in which that one is open or, where that is forbidden, the capability
    to read all files. Raises OperatorError when that is forbidden too.
    """
    if os.geteuid() != 0:
        return Account()
    uid = _unused(data)
    # Without passages when no folder is closed.
    unprivileged = Account(uid, uid, passages=tuple(needed(data)))
    for account in (unprivileged, Account(uid, uid, 1 << CAP_DAC_READ_SEARCH)):
        if _reaches(account, data):
            return account
    raise OperatorError(
        f"No program of the mesh runs as root, and another account cannot reach {ROOT}, {sys.base_prefix} and {data}: "
        "start as an ordinary user, or keep them in folders that everyone may enter."
    )


def hand_over(folder: MeshFolder, account: Account) -> None:
    """Gives the account what it needs: four folders of the data folder as their owner, two to read, and bytecode."""
    if account.uid < 0:
        return
    for path in (folder.nats, folder.valkey, folder.objects, folder.edge_admin.parent):
        path.mkdir(parents=True, exist_ok=True)
        give(path, account)
        path.chmod(stat.S_ISGID | 0o750)
    for path in (folder.certificates, folder.edge, folder.edge / "secrets", folder.edge / "endpoints"):
        path.mkdir(exist_ok=True)
        os.chown(path, 0, account.gid)
        # What is written here later gets the same group.
        path.chmod(stat.S_ISGID | 0o750)
        for file in path.iterdir():
            if file.is_file():
                os.chown(file, 0, account.gid)
                file.chmod(0o600 if file.suffix == ".key" and file.stem in UNSHARED else 0o640)

    # What the account cannot write: without bytecode every start of a service takes twice as long.
    for name in ("chassis", "gen/python", "sdk/python/src", "services"):
        compileall.compile_dir(ROOT / name, quiet=2)


def give(path: Path, account: Account) -> None:
    """Makes the account the owner of a folder and all that is in it."""
    if account.uid < 0 or path.stat().st_uid == account.uid:
        return
    for found in path.rglob("*"):
        os.chown(found, account.uid, account.gid, follow_symlinks=False)
    # Last, so that a change that was interrupted is made again.
    os.chown(path, account.uid, account.gid)


def _unused(data: Path) -> int:
    """The same uid for the same folder; another one for another mesh of this machine, with good probability."""
    start = zlib.crc32(os.fsencode(data)) % len(UNUSED)
    around = (UNUSED[(start + step) % len(UNUSED)] for step in range(len(UNUSED)))
    return next(uid for uid in around if not _has_name(uid))


def _has_name(uid: int) -> bool:
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True


def needed(data: Path) -> Iterator[str]:
    """The folders that the programs use, besides those of the system."""
    # One that is closed itself, as a clone can be, is left out for what is in it.
    within = [ROOT] if _open(ROOT) else [path for path in ROOT.iterdir() if path.is_dir() and _open(path)]
    for path in (*within, Path(sys.prefix).resolve(), Path(sys.base_prefix).resolve(), data):
        if not all(map(_open, path.parents)):
            yield str(path)


def _open(folder: Path) -> bool:
    return bool(folder.stat().st_mode & 0o001)


def _reaches(account: Account, data: Path) -> bool:
    command = launch_command((sys.executable, "-P", "-c", PROBE, str(data)), account)
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False).returncode == 0
