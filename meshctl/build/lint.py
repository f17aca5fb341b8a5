"""`python -m meshctl.build.lint`: runs every static check, and lists at the end those that failed."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from meshctl.databases import migrations_sql

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
IMAGE = "gen/descriptors/protomesh.binpb"
RELEASED = "gen/descriptors/released.binpb"
TYPED = ["chassis", "services", "meshctl", "tests", "sdk/python/src"]


def checks(sql: Path) -> Iterator[tuple[str, list[str]]]:
    """Returns each check's name and the command that fails when it does. `sql` is a folder of migrations as SQL."""
    yield "ruff check", ["ruff", "check", "--quiet", "--output-format=concise", "."]
    yield "ruff format", ["ruff", "format", "--check", "--output-format=concise", "."]
    yield "mypy", ["mypy", "--no-error-summary", *(name for name in TYPED if (ROOT / name).exists())]
    yield "import-linter", ["lint-imports"]
    # Comes before the checks that read the image, which would else check a stale one.
    yield "generated code is up to date", ["python", "-m", "meshctl.build.gen", "--check"]
    yield "buf format", ["buf", "format", "--diff", "--exit-code", "proto"]
    yield "buf lint", ["buf", "lint", IMAGE]
    if (ROOT / RELEASED).exists():
        yield "buf breaking", ["buf", "breaking", IMAGE, "--against", RELEASED]
    if files := sorted(str(path) for path in sql.glob("*.sql")):
        yield "squawk", ["squawk", "--reporter", "gcc", *files]


def passes(name: str, command: list[str]) -> bool:
    """Runs one check and prints its result; prints its output only when it fails."""
    program = [str(BIN / command[0]), *command[1:]]
    result = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, check=False)
    if result.returncode == 0:
        print(f"ok      {name}", flush=True)
        return True
    print(f"{result.stdout}{result.stderr}FAILED  {name}", flush=True)
    return False


def main() -> int:
    with tempfile.TemporaryDirectory() as directory:
        sql = Path(directory)
        migrations_sql.write(ROOT / "services", sql)
        failed = [name for name, command in checks(sql) if not passes(name, command)]
    if failed:
        print(f"{len(failed)} failed: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
