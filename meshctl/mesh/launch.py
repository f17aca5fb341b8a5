"""Turns into a program after dropping the rights that it must not keep: run as a script, never imported.

`python -I -S launch.py PARENT_PID UID GID CAPABILITY PROGRAM ARGUMENT…`; UID -1 keeps the account,
CAPABILITY -1 passes none. It is a script of its own, since code between fork and exec in a process with
threads may hang.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG, PR_SET_KEEPCAPS, PR_SET_SECUREBITS, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE = 1, 8, 28, 47, 2
SECBIT_NO_SETUID_FIXUP = 1 << 2
CAPABILITY_VERSION_3 = 0x20080522


def check(result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def become(uid: int, gid: int, capability: int) -> None:
    """Switches to another account; the one capability is kept across exec."""
    libc = ctypes.CDLL(None, use_errno=True)
    if capability >= 0:
        check(libc.prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0))
        # Without it access(2), by which PostgreSQL looks at its own files, ignores the capability. Where a sandbox
        # forbids it, PostgreSQL says which file it cannot reach.
        libc.prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP, 0, 0, 0)
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    if capability >= 0:
        bit = 1 << capability
        header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
        sets = (ctypes.c_uint32 * 6)(bit, bit, bit, 0, 0, 0)
        check(libc.capset(header, sets))
        check(libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability, 0, 0))


def die_with(parent: int) -> None:
    """Has the kernel end this process when its parent is gone, so that a killed supervisor leaves no orphans."""
    if not sys.platform.startswith("linux"):
        return
    check(ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0))
    if os.getppid() != parent:
        sys.exit(1)


def main() -> None:
    parent, uid, gid, capability = (int(value) for value in sys.argv[1:5])
    os.chdir("/")
    if uid >= 0:
        become(uid, gid, capability)
    # A change of account clears the death signal, so it comes last.
    die_with(parent)
    os.execv(sys.argv[5], sys.argv[5:])  # noqa: S606  it becomes the program that the supervisor named


if __name__ == "__main__":
    main()
