"""Unix sockets, whose addresses have at most 108 bytes, however long a path is."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def short(path: Path) -> Iterator[str]:
    """Returns another name for `path` that fits the 108 bytes of a socket's address."""
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        below_proc = Path(f"/proc/self/fd/{folder}")
        yield str((below_proc if below_proc.exists() else path.parent) / path.name)
    finally:
        os.close(folder)
