"""Unix sockets, whose addresses have at most 108 bytes, however long a path is."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from meshctl.core.files import opened_folder


@contextlib.contextmanager
def short(path: Path) -> Iterator[str]:
    """Returns another name for `path` that fits the 108 bytes of a socket's address."""
    with opened_folder(path.parent) as folder:
        below_proc = Path(f"/proc/self/fd/{folder}")
        yield str((below_proc if below_proc.exists() else path.parent) / path.name)
