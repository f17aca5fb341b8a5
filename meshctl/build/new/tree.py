"""The files that a command is about to write, all or none."""

import ast
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from string import Template

from meshctl.core.failure import OperatorError

ROOT = Path(__file__).resolve().parents[3]
_TEMPLATES = Path(__file__).parent / "templates"
_BIN = Path(sys.executable).parent


class Tree:
    """Files of the repository with pending changes."""

    def __init__(self, root: Path = ROOT) -> None:
        self.root = root
        self._files: dict[str, str] = {}

    def has(self, path: str) -> bool:
        return path in self._files or (self.root / path).exists()

    def read(self, path: str) -> str:
        """Returns a file with its pending changes. Raises OperatorError when it does not exist."""
        if not self.has(path):
            raise OperatorError(f"There is no {path}.")
        return self._files.get(path) or (self.root / path).read_text()

    def create(self, path: str, template: str, values: Mapping[str, str]) -> None:
        """Adds a file. Raises OperatorError when it exists."""
        if self.has(path):
            raise OperatorError(f"{path} exists already, so nothing was written: choose another name.")
        self._files[path] = render(template, values)

    def append(self, path: str, template: str, values: Mapping[str, str]) -> None:
        self._files[path] = self.read(path) + render(template, values)

    def insert(self, path: str, before: str, text: str, *, after: str = "") -> None:
        """Inserts text before the first `before` that follows `after`. Raises OperatorError when there is none."""
        old = self.read(path)
        start = old.find(after)
        found = old.find(before, max(start, 0))
        if start < 0 or found < 0:
            raise OperatorError(f"{path} is not laid out as expected: it has no {before.strip() or after!r}.")
        self._files[path] = old[:found] + text + old[found:]

    def import_in(self, path: str, line: str) -> None:
        """Adds an import after a module's docstring; the formatter sorts it."""
        lines = self.read(path).splitlines(keepends=True)
        first = ast.parse("".join(lines)).body[0]
        self._files[path] = "".join((*lines[: first.end_lineno], f"\n{line}\n", *lines[first.end_lineno :]))

    def extend(self, path: str, name: str, text: str) -> None:
        """Adds lines to the end of a module's function or class."""
        lines = self.read(path).splitlines(keepends=True)
        for node in ast.parse("".join(lines)).body:
            if isinstance(node, ast.AsyncFunctionDef | ast.FunctionDef | ast.ClassDef) and node.name == name:
                self._files[path] = "".join((*lines[: node.end_lineno], text, *lines[node.end_lineno :]))
                return
        raise OperatorError(f"{path} has no {name!r}.")

    def write(self) -> list[str]:
        """Writes all files, formatted; returns their names."""
        for path, text in self._files.items():
            (self.root / path).parent.mkdir(parents=True, exist_ok=True)
            (self.root / path).write_text(text)
        written = sorted(self._files)
        if code := [path for path in written if path.endswith(".py")]:
            self._run("ruff", "check", "--quiet", "--select=I", "--fix", *code)
            self._run("ruff", "format", "--quiet", *code)
        for path in written:
            if path.endswith(".proto"):
                self._run("buf", "format", "--write", path)
        return written

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run([str(_BIN / program), *arguments], cwd=self.root, check=True)


def render(template: str, values: Mapping[str, str]) -> str:
    return Template((_TEMPLATES / f"{template}.tmpl").read_text()).substitute(values)
