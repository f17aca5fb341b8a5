"""`scripts/mutate` breaks the chassis one small change at a time, and lists the changes that no test notices.

It works on a copy of the tree. A sample is drawn by a seed, so that a run can be repeated; it ends when its time is up.
Exit code 1 when a mutant survives that docs/mutation.md does not list with a reason.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.mutation.exempt import Exempt
from tests.mutation.mutants import Mutant, places_in
from tests.mutation.reach import PYTEST, SUITES, Reach, environment
from tests.mutation.watch import LATEST, SECONDS, allowed_seconds

ROOT = Path(__file__).parents[2]
# A run of tests, none of which hangs, is given up after this many times what it is allowed.
_BUSY = 4.0


def main() -> int:
    options, exempt = _options(), Exempt()
    with tempfile.TemporaryDirectory() as folder:
        trees = [_copy(Path(folder) / str(number)) for number in range(options.jobs)]
        reach = _reach(options, trees[0])
        for tree in trees[1:]:
            shutil.copy(trees[0] / SECONDS, tree)
        paths = sorted((trees[0] / "chassis").rglob(options.files))
        places = [place for path in paths for place in places_in(trees[0], path)]
        random.Random(options.seed).shuffle(places)
        made = (place.mutant() for place in places)
        mutants = (mutant for mutant in made if mutant is not None and not exempt.is_left_alone(mutant))
        survivors = _survivors(trees, reach, mutants, time.monotonic() + 60 * options.minutes)
    new = [mutant for mutant in survivors if not exempt.may_survive(mutant)]
    for mutant in new:
        print(f"not listed: {mutant.name} (line {mutant.line})")
    return 1 if new else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/mutate", description=__doc__)
    parser.add_argument(
        "--minutes", type=float, default=30, help="when to stop, after the first run of the tests"
    )
    parser.add_argument("--seed", type=int, default=1, help="which sample is drawn")
    parser.add_argument(
        "--files", default="*.py", help="pattern of the files to mutate, such as 'idempotency*.py'"
    )
    parser.add_argument("--jobs", type=int, default=2, help="how many mutants at a time")
    parser.add_argument(
        "--learned",
        type=Path,
        help="folder that keeps which tests reach which line, for more runs on one commit",
    )
    parser.add_argument("--suites", nargs="+", default=SUITES, help="the tests that must notice")
    return parser.parse_args()


def _reach(options: argparse.Namespace, tree: Path) -> Reach:
    """Learns which tests reach which line, unless an earlier run on the same commit has kept what it learned."""
    if options.learned is None:
        return Reach.measure(tree, options.suites)
    if not options.learned.is_dir():
        reach = Reach.measure(tree, options.suites)
        options.learned.mkdir()
        for name in Reach.FILES:
            shutil.copy(tree / name, options.learned)
        return reach
    shutil.copy(options.learned / SECONDS, tree)
    return Reach(options.learned)


def _copy(tree: Path) -> Path:
    """Copies the tree as git knows it, with changes that are not committed."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
    for name in filter(None, names):
        if (ROOT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tree / name)
    # Compiled once, since each run imports the same modules but one; by content, since a mutant may share a time stamp.
    compiling = [sys.executable, "-m", "compileall", "-q", "--invalidation-mode", "checked-hash"]
    subprocess.run([*compiling, "chassis", "gen", "services", "meshctl", "tests"], cwd=tree, check=False)
    return tree


def _survivors(trees: Sequence[Path], reach: Reach, mutants: Iterator[Mutant], until: float) -> list[Mutant]:
    """The mutants that no test notices, by failing or by hanging. A tree gets the next one as soon as it is free."""
    outcomes: Counter[str] = Counter()
    survivors = []
    taking = threading.Lock()

    def work(tree: Path) -> None:
        while time.monotonic() < until:
            with taking:
                mutant = next(mutants, None)
                if mutant is None:
                    return
                tests = reach.tests(mutant.path, mutant.line)
            outcome = _outcome(tree, mutant, tests, reach.seconds(tests)) if tests else "unreached"
            with taking:
                outcomes[outcome] += 1
                if outcome in ("survived", "unreached"):
                    survivors.append(mutant)
                if outcome != "killed":
                    at = f", {(tree / LATEST).read_text()}" if outcome == "timed out" else ""
                    print(
                        f"{outcome}: {mutant.name} (line {mutant.line}, {len(tests)} tests{at})", flush=True
                    )

    with ThreadPoolExecutor(len(trees)) as workers:
        list(workers.map(work, trees))
    found = ", ".join(f"{count} {name}" for name, count in outcomes.items())
    print(f"{outcomes.total()} mutants: {found}")
    return survivors


def _outcome(tree: Path, mutant: Mutant, tests: Sequence[str], seconds: float) -> str:
    path = tree / mutant.path
    before = path.read_text()
    path.write_text(mutant.code)
    try:
        return _run(tree, tests, _BUSY * allowed_seconds(seconds))
    finally:
        path.write_text(before)


def _run(tree: Path, tests: Sequence[str], seconds: float) -> str:
    with subprocess.Popen(
        [*PYTEST, "-x", *tests],
        cwd=tree,
        env=environment(tree),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as run:
        try:
            code = run.wait(seconds)
        except (
            subprocess.TimeoutExpired
        ):  # every test in its time, and too long together: the machine is busy
            return "unclear"
        finally:
            # With what the tests started, such as PostgreSQL.
            _end_group(run.pid)
    return {0: "survived", -signal.SIGALRM: "timed out"}.get(code, "killed")


def _end_group(group: int) -> None:
    try:
        os.killpg(group, signal.SIGTERM)
        time.sleep(0.2)
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return


if __name__ == "__main__":
    sys.exit(main())
