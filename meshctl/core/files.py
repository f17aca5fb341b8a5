"""Files that readers see complete or not at all."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_private(path: Path, text: str | bytes, *, durable: bool = False, alone: bool = False) -> None:
    """Replaces `path` atomically with a file that only its owner may read; `durable` returns once it is on disk.

    In a folder whose files belong to its group (setgid), that group may read it too, unless `alone`.
    """
    shared = path.parent.stat().st_mode & stat.S_ISGID and not alone
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        if shared:
            os.fchmod(descriptor, 0o640)
        file.write(text.encode() if isinstance(text, str) else text)
        if durable:
            # Otherwise a power cut may leave the new name with no content.
            file.flush()
            os.fsync(descriptor)
    draft.replace(path)
    if durable:
        with opened_folder(path.parent) as folder:
            os.fsync(folder)


@contextmanager
def opened_folder(folder: Path) -> Iterator[int]:
    """A descriptor of the folder itself, for the calls that take one."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
