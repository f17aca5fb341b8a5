"""A small file system, to be filled."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.disks import mounted


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 48 MiB; a test that asks for it is skipped where mounts are not permitted."""
    with mounted(tmp_path / "disk", "48m") as disk:
        yield disk
