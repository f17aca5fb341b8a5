"""Which tests reach a line, and how long each takes: from one run of the suite under coverage."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from coverage import CoverageData

from chassis.process import ENVIRONMENT
from tests.mutation.watch import SECONDS

# The tests that run the chassis in their own process: its own, and those of what only services bring to life.
SUITES = (
    "tests/unit/chassis",
    "tests/service/chassis",
    "tests/service/identity/test_audit.py",
    "tests/service/test_refusals.py",
)
# A program that a test starts finds the test's name in its environment: it is the context of all that it runs.
_CONFIGURATION = """
[run]
source = {tree}/chassis
concurrency = greenlet, thread
data_file = {tree}/.coverage
relative_files = true
parallel = true
sigterm = true
context = ${{PYTEST_CURRENT_TEST-}}
"""
_PHASE = re.compile(r"(\|(setup|run|teardown)| \((setup|call|teardown)\))$")


class Reach:
    """What a run under coverage found, from the files that it left in a folder."""

    FILES = (".coverage", str(SECONDS))

    def __init__(self, folder: Path) -> None:
        self._data = CoverageData(str(folder / ".coverage"))
        self._data.read()
        self._seconds: dict[str, float] = json.loads((folder / SECONDS).read_text())
        self._lines: dict[str, dict[int, list[str]]] = {}

    @classmethod
    def measure(cls, tree: Path, suites: Sequence[str]) -> "Reach":
        """Runs the suites once. RuntimeError when they do not run; one that fails twice is not counted on."""
        (tree / "coverage.ini").write_text(_CONFIGURATION.format(tree=tree))
        options = ["--cov", "--cov-config=coverage.ini", "--cov-context=test", "--cov-report="]
        run = subprocess.run([*PYTEST, *options, *suites], cwd=tree, env=environment(tree), check=False)
        if run.returncode not in (0, 1):
            raise RuntimeError("The tests do not run without any mutation: make them pass first.")
        return cls(tree)

    def tests(self, path: str, line: int) -> list[str]:
        """The ids of the tests that run a line, the quickest first; of its module, if the line runs before any test."""
        if path not in self._lines:
            self._lines[path] = self._data.contexts_by_lineno(path)
        contexts = set(self._lines[path].get(line, ()))
        if contexts == {""}:
            contexts.update(*self._lines[path].values())
        ids = {_PHASE.sub("", context) for context in contexts}
        return sorted(ids & self._seconds.keys(), key=self._seconds.__getitem__)

    def seconds(self, tests: Sequence[str]) -> float:
        """How long tests take together."""
        return sum(self._seconds[test] for test in tests)


def environment(tree: Path) -> dict[str, str]:
    """What tests of a copy of the tree run with: they import the copy, and so do the programs that they start."""
    paths = os.pathsep.join(map(str, (tree, tree / "gen" / "python")))
    return {**os.environ, "PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1", **ENVIRONMENT}


# A test that fails is run again, since the machine may have been busy.
PYTEST = (
    *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"),
    *("-p", "tests.mutation.watch", "--reruns", "1"),
)
