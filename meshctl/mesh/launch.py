"""Turns into a program after dropping the rights that it must not keep: run as a script, never imported.

`python -I -S launch.py PARENT_PID UID GID CAPABILITIES FOLDERS PROGRAM ARGUMENT…`; UID -1 keeps the account,
CAPABILITIES is the set of Linux capabilities that stay, as a number, and FOLDERS, one on each line, are those that the
program reaches although a folder on their paths is closed to it. It is a script of its own, since code between fork and
exec in a process with threads may hang; and it imports little, since every program waits for it.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG, PR_SET_KEEPCAPS, PR_SET_SECUREBITS = 1, 8, 28
PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE = 38, 47, 2
SECBIT_NO_SETUID_FIXUP = 1 << 2
CAPABILITY_VERSION_3 = 0x20080522
CLONE_NEWNS = 0x20000
MS_NOSUID, MS_NODEV, MS_BIND, MS_REC, MS_SLAVE = 2, 4, 1 << 12, 1 << 14, 1 << 19


def check(result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def open_passages(folders: list[str]) -> None:
    """Makes the folders reachable, in a view of the file system that only this process and its children have.

    In that view, each closed folder is covered by an empty one, in which nothing but the given folders appears.
    """
    libc = ctypes.CDLL(None, use_errno=True)

    def mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
        check(libc.mount(*(text.encode() for text in (source, target, kind)), flags, options.encode()))

    check(libc.unshare(CLONE_NEWNS))
    mount("none", "/", "", MS_REC | MS_SLAVE)
    held = {folder: os.open(folder, os.O_PATH | os.O_DIRECTORY) for folder in folders}
    mask = os.umask(0o022)
    for closed in {outermost_closed(folder) for folder in folders} - {""}:
        mount("tmpfs", closed, "tmpfs", MS_NOSUID | MS_NODEV, "mode=711,size=1m")
    for folder, descriptor in held.items():
        os.makedirs(folder, exist_ok=True)  # noqa: PTH103  pathlib is slow to import
        mount(f"/proc/self/fd/{descriptor}", folder, "", MS_BIND | MS_REC)
    os.umask(mask)


def outermost_closed(folder: str) -> str:
    """The first folder on the path that others may not enter; "" when there is none."""
    parts = folder.split("/")
    paths = ("/".join(parts[:count]) for count in range(2, len(parts)))
    return next((path for path in paths if not os.stat(path).st_mode & 0o001), "")  # noqa: PTH116


def become(uid: int, gid: int, capabilities: int) -> None:
    """Switches to another account; the capabilities are kept across exec."""
    libc = ctypes.CDLL(None, use_errno=True)
    if capabilities:
        check(libc.prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0))
        # Without it access(2), by which PostgreSQL looks at its own files, ignores the capability. Where a sandbox
        # forbids it, PostgreSQL says which file it cannot reach.
        libc.prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP, 0, 0, 0)
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)
    # Files of another account's home need not be readable, and a library that finds one so may refuse to go on.
    os.environ["HOME"] = "/"
    if capabilities:
        header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
        sets = (ctypes.c_uint32 * 6)(capabilities, capabilities, capabilities, 0, 0, 0)
        check(libc.capset(header, sets))
        for number in range(capabilities.bit_length()):
            if capabilities >> number & 1:
                check(libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, number, 0, 0))


def restrict(parent: int) -> None:
    """Gains no rights by exec from now on, and ends with its parent, so that a killed supervisor leaves no orphans."""
    if not sys.platform.startswith("linux"):
        return
    libc = ctypes.CDLL(None, use_errno=True)
    check(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    check(libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0))
    if os.getppid() != parent:
        sys.exit(1)


def main() -> None:
    parent, uid, gid, capabilities = (int(value) for value in sys.argv[1:5])
    os.chdir("/")
    if uid >= 0:
        if sys.argv[5]:
            open_passages(sys.argv[5].split("\n"))
        become(uid, gid, capabilities)
    # A change of account clears the death signal, so it comes last.
    restrict(parent)
    os.execv(sys.argv[6], sys.argv[6:])  # noqa: S606  it becomes the program that the supervisor named


if __name__ == "__main__":
    main()
