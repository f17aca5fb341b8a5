"""scripts/setup on machines that lack something."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A checkout without a virtual environment, and `bin` with coreutils alone."""
    (tmp_path / "bin").mkdir()
    for program in ("bash", "env", "cat", "cut", "dirname", "grep", "readlink", "rm", "sha256sum"):
        (tmp_path / "bin" / program).symlink_to(str(shutil.which(program)))
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    shutil.copytree(ROOT / "requirements", tmp_path / "requirements")
    shutil.copy(ROOT / "bin/meshctl", tmp_path / "scripts/../bin/meshctl")
    return tmp_path


def python_that(bare: Path, script: str) -> None:
    python = bare / "bin/python3"
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)


def up(bare: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [bare / "scripts/up"],
        env={"PATH": str(bare / "bin")},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )


def test_without_python_it_says_which_one_is_needed(bare: Path) -> None:
    refused = up(bare)
    assert refused.returncode == 1
    assert refused.stderr.startswith("Protomesh needs Python 3.11 or later: install it")


@pytest.mark.parametrize(
    "script",
    [*(f"scripts/{name}" for name in ("down", "gen", "lint", "lock", "bench", "test")), "bin/meshctl"],
)
def test_every_script_sets_up_what_it_needs(bare: Path, script: str) -> None:
    refused = subprocess.run(
        [bare / script],
        env={"PATH": str(bare / "bin")},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert refused.returncode == 1
    assert refused.stderr.startswith("Protomesh needs Python 3.11 or later: install it")


def test_an_old_python_is_the_wrong_one(bare: Path) -> None:
    python_that(bare, "exit 1")
    assert up(bare).stderr.startswith("Protomesh needs Python 3.11 or later: install it")


def test_without_venv_it_says_what_to_install(bare: Path) -> None:
    python_that(bare, 'case "$2" in *ensurepip*) exit 1;; esac')
    refused = up(bare)
    assert refused.returncode == 1
    assert "install its venv package" in refused.stderr


def set_up(bare: Path, uv: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`scripts/setup runtime` in a checkout with an environment of its own and a program in uv's place."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", bare / ".venv"], check=True)
    installer = bare / ".venv/bin/uv"
    installer.write_text(f"#!/bin/sh\n{uv}\n")
    installer.chmod(0o755)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "UV_"))}
    return subprocess.run(
        [bare / "scripts/setup", "runtime"],
        env={**inherited, "PIP_CONFIG_FILE": os.devnull, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_packages_come_from_where_pip_is_told_to_get_them(bare: Path) -> None:
    asked = "echo $UV_DEFAULT_INDEX,$UV_INDEX,$UV_FIND_LINKS > asked"
    index, others = "http://127.0.0.1:9/simple", "http://127.0.0.1:9/a http://127.0.0.1:9/b"
    done = set_up(bare, asked, PIP_INDEX_URL=index, PIP_EXTRA_INDEX_URL=others, PIP_FIND_LINKS="/x /y")
    assert done.returncode == 0, done.stderr
    assert (bare / "asked").read_text() == f"{index},{others},/x,/y\n"


def test_where_uv_fails_pip_installs(bare: Path) -> None:
    refused = set_up(bare, "exit 2", PIP_NO_INDEX="1")
    assert refused.returncode == 1
    assert "No matching distribution" in refused.stderr
    assert refused.stderr.endswith("The packages of requirements/runtime.txt could not be installed.\n")
    assert not (bare / ".venv/runtime.installed").exists()


def argon2(bare: Path, compiler: str) -> subprocess.CompletedProcess[str]:
    """Builds into a virtual environment with an installer that can do nothing."""
    for program in ("awk", "mktemp", "tail"):
        (bare / "bin" / program).symlink_to(str(shutil.which(program)))
    uv = bare / "bin/uv"
    uv.write_text("#!/bin/sh\necho it cannot >&2; exit 1\n")
    uv.chmod(0o755)
    (bare / "venv").mkdir()
    return subprocess.run(
        [bare / "scripts/argon2", bare / "venv"],
        env={"PATH": str(bare / "bin"), "CC": compiler},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )


def test_without_a_compiler_argon2_stays_as_its_wheel_has_it(bare: Path) -> None:
    kept = argon2(bare, compiler="no-such-compiler")
    assert (kept.returncode, kept.stdout, kept.stderr) == (0, "", "")


def test_a_build_of_argon2_that_fails_ends_no_setup(bare: Path) -> None:
    kept = argon2(bare, compiler="cat")
    assert (kept.returncode, kept.stderr) == (0, "")
    if "avx2" in Path("/proc/cpuinfo").read_text():
        assert kept.stdout.splitlines()[-1] == "Argon2 stays as its wheel has it: it cannot"
    assert not (bare / "venv/argon2.built").exists()
