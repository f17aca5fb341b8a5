"""A pytest plugin for the runs over mutants: which tests pass, how long each takes, and an end to one that hangs."""

import json
import os
import pathlib
import signal
from typing import Any

import pytest

# In the root of the tree whose tests run: seconds by test, of those that pass without a mutation; the test begun last.
SECONDS, LATEST = pathlib.Path("seconds.json"), pathlib.Path("latest.txt")
# A test hangs when it takes this much longer than it did.
_PATIENCE, _AT_LEAST_SECONDS = 4.0, 30.0
# On a machine with more processes ready to run than this for each processor, it gets that time again, so many times.
_BUSY, _AGAIN = 2.0, 3


class Watch:
    """Notes each test as it goes. `expected` is how long each took without a mutation, empty in the first run."""

    def __init__(self, expected: dict[str, float]) -> None:
        self._expected = expected
        self._seconds: dict[str, float] = {}
        self._failed: set[str] = set()
        self._alarms = 0
        signal.signal(signal.SIGALRM, self._late)

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Sets the alarm, which ends the process: no test is in a state to go on after it."""
        LATEST.write_text(nodeid)
        if nodeid in self._expected:
            self._alarms = 0
            signal.alarm(int(allowed_seconds(self._expected[nodeid])))

    def _late(self, *_: object) -> None:
        self._alarms += 1
        if os.getloadavg()[0] > _BUSY * (os.cpu_count() or 1) and self._alarms <= _AGAIN:
            signal.alarm(int(_AT_LEAST_SECONDS))
            return
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.raise_signal(signal.SIGALRM)

    def pytest_runtest_logfinish(self) -> None:
        """Takes the alarm back."""
        signal.alarm(0)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Counts the phases of a test together. A test that failed first and then passed has passed."""
        if report.outcome == "failed":
            self._failed.add(report.nodeid)
        self._seconds[report.nodeid] = self._seconds.get(report.nodeid, 0.0) + report.duration

    def pytest_sessionfinish(self) -> None:
        """Writes what the first run found."""
        if not self._expected:
            passed = {name: took for name, took in self._seconds.items() if name not in self._failed}
            SECONDS.write_text(json.dumps(passed))


def pytest_configure(config: Any) -> None:
    """Registers the plugin, in the root of a tree. Programs that tests start are measured as well, if the tests are."""
    config.pluginmanager.register(Watch(json.loads(SECONDS.read_text()) if SECONDS.exists() else {}))
    if config.pluginmanager.hasplugin("_cov"):
        os.environ["COVERAGE_PROCESS_START"] = str(pathlib.Path("coverage.ini").resolve())


def allowed_seconds(expected: float) -> float:
    """How long tests may take that took `expected` seconds without a mutation."""
    return _AT_LEAST_SECONDS + _PATIENCE * expected
