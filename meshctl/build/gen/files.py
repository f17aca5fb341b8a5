"""Puts generated files in place, each atomically, so that no reader sees a partial file."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def exclusive(lock: Path) -> Iterator[None]:
    """Waits until no other generator is running."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def drift(fresh: Path, committed: Path) -> list[str]:
    """Returns the files, relative to both directories, that differ, are missing or should not exist."""
    names = _names(fresh) | _names(committed)
    return sorted(name for name in names if _content(fresh / name) != _content(committed / name))


def publish(fresh: Path, target: Path) -> list[str]:
    """Makes `target` equal to `fresh`, file by file, each by a rename. Returns the names that changed."""
    changed = drift(fresh, target)
    for name in changed:
        if (fresh / name).exists():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            (fresh / name).replace(target / name)
        else:
            (target / name).unlink()
    return changed


def _names(directory: Path) -> set[str]:
    paths = (path for path in directory.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(directory).as_posix() for path in paths}


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None
