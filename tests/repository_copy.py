"""A copy of the repository, in which commands are run that change it."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SECONDS = 240
_LEFT_OUT = shutil.ignore_patterns(
    ".git", ".venv", ".mesh", ".pytest_cache", ".ruff_cache", "node_modules", "__pycache__", "results"
)


class Copy:
    """The copy. Its own code is what its commands run, with the packages of this environment."""

    def __init__(self, root: Path) -> None:
        self.root = root
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PROTOMESH_")}
        path = os.pathsep.join(map(str, (root, root / "gen/python", root / "client")))
        self.environment = {**kept, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Runs Python with these arguments."""
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=self.root,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )

    def new(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.run("-m", "meshctl", "new", *arguments)

    def install_the_sdk(self) -> None:
        """Installs the SDK where the copy's commands find it."""
        consumer = self.root / "consumer"
        # The project's own environment has no pip.
        subprocess.run([sys.executable, "-m", "venv", consumer], check=True)
        install = (consumer / "bin/pip", "install", "-q", "--no-deps", "--target", self.root / "client")
        done = subprocess.run(
            (*install, self.root / "sdk/python"), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr

    def files(self) -> dict[str, float]:
        """When each file was last written."""
        return {
            str(path.relative_to(self.root)): path.stat().st_mtime
            for path in self.root.rglob("*")
            if path.is_file() and not path.is_relative_to(self.root / ".mesh")
        }


@contextmanager
def copied(folder: Path) -> Iterator[Copy]:
    """A copy in `folder`, thrown away at the end."""
    root = folder / "protomesh"
    shutil.copytree(ROOT, root, ignore=_LEFT_OUT, symlinks=True)
    try:
        yield Copy(root)
    finally:
        shutil.rmtree(root)
