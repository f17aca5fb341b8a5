"""Which tests reach a line, and how long each takes: from one run of the suite under coverage."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from coverage import CoverageData

from chassis.process import ENVIRONMENT

# Tests that talk to the chassis in the process of the test; what others start is not seen by coverage.
SUITES = ("tests/unit/chassis", "tests/service/chassis")
_CONFIGURATION = """
[run]
source = chassis
concurrency = greenlet, thread
"""
_DURATIONS = """
import json
import os
import pathlib

seconds = {}


def pytest_runtest_logreport(report):
    seconds[report.nodeid] = seconds.get(report.nodeid, 0.0) + report.duration


def pytest_sessionfinish():
    pathlib.Path("durations.json").write_text(json.dumps(seconds))
"""


class Reach:
    """What a run under coverage found in a copy of the tree."""

    def __init__(self, tree: Path) -> None:
        self._tree = tree
        self._data = CoverageData(str(tree / ".coverage"))
        self._data.read()
        self._seconds: dict[str, float] = json.loads((tree / "durations.json").read_text())
        self._lines: dict[str, dict[int, list[str]]] = {}

    @classmethod
    def measure(cls, tree: Path, suites: Sequence[str]) -> "Reach":
        """Runs the suites once. RuntimeError when they fail as they are, since then nothing can be told of a mutant."""
        (tree / "coverage.ini").write_text(_CONFIGURATION)
        (tree / "durations_plugin.py").write_text(_DURATIONS)
        options = [
            "-p",
            "durations_plugin",
            "--cov",
            "--cov-config=coverage.ini",
            "--cov-context=test",
            "--cov-report=",
        ]
        if subprocess.run([*PYTEST, *options, *suites], cwd=tree, check=False).returncode != 0:
            raise RuntimeError("The tests fail without any mutation: make them pass first.")
        return cls(tree)

    def tests(self, path: str, line: int) -> list[str]:
        """The ids of the tests that run a line, the quickest first."""
        if path not in self._lines:
            self._lines[path] = self._data.contexts_by_lineno(str(self._tree / path))
        ids = {context.partition("|")[0] for context in self._lines[path].get(line, ()) if context}
        return sorted(ids & self._seconds.keys(), key=self._seconds.__getitem__)

    def seconds(self, tests: Sequence[str]) -> float:
        """How long tests take together."""
        return sum(self._seconds[test] for test in tests)


def environment(tree: Path) -> dict[str, str]:
    """What tests of a copy of the tree run with: they import the copy, and so do the programs that they start."""
    paths = os.pathsep.join(map(str, (tree, tree / "gen" / "python")))
    return {**os.environ, "PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1", **ENVIRONMENT}


PYTEST = (sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider")
