"""scripts/setup on machines that lack something."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A checkout without a virtual environment, and `bin` with coreutils alone."""
    (tmp_path / "bin").mkdir()
    for program in ("bash", "env", "cat", "cut", "dirname", "grep", "rm", "sha256sum"):
        (tmp_path / "bin" / program).symlink_to(str(shutil.which(program)))
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    shutil.copytree(ROOT / "requirements", tmp_path / "requirements")
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


def test_an_old_python_is_the_wrong_one(bare: Path) -> None:
    python_that(bare, "exit 1")
    assert up(bare).stderr.startswith("Protomesh needs Python 3.11 or later: install it")


def test_without_venv_it_says_what_to_install(bare: Path) -> None:
    python_that(bare, 'case "$2" in *ensurepip*) exit 1;; esac')
    refused = up(bare)
    assert refused.returncode == 1
    assert "install its venv package" in refused.stderr
