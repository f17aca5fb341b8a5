"""What the import command says when it cannot begin."""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

FILE = "sku,name,price\nA,B,1\n"


SOMEBODY = {"ADMIN_EMAIL": "ada@example.com", "ADMIN_PASSWORD": "correct horse battery"}


def _refusal(*arguments: str, environment: Mapping[str, str] = SOMEBODY) -> str:
    command = [sys.executable, "-P", "-m", "services.catalog.importing", "products", *arguments]
    ended = subprocess.run(
        command, env=dict(environment), check=False, capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 1, ended
    assert "Traceback" not in ended.stderr
    return ended.stderr.strip().rpartition("\n")[2]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "No mesh is running here"),
        (["--edge-url", "nowhere"], "Not a URL of the mesh: 'nowhere'"),
        (["--edge-url", "http://127.0.0.1:1", "--map", "sku"], "--map 'sku' is not of the form FIELD=COLUMN"),
        (["--edge-url", "http://127.0.0.1:1", "--map", "sku=x"], "The file has no column 'x'"),
    ],
)
def test_what_is_missing_is_said_in_a_sentence(tmp_path: Path, arguments: list[str], said: str) -> None:
    file = tmp_path / "products.csv"
    file.write_text(FILE)
    assert said in _refusal(str(file), "--currency", "GBP", *arguments)


def test_nobody_is_asked_to_say_who_imports(tmp_path: Path) -> None:
    file = tmp_path / "products.csv"
    file.write_text(FILE)
    said = _refusal(
        str(file),
        "--currency",
        "GBP",
        "--edge-url",
        "http://127.0.0.1:1",
        environment={"ADMIN_EMAIL": "a@b.c"},
    )
    assert said == "Say who imports: ADMIN_EMAIL and ADMIN_PASSWORD must be set."


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    missing = tmp_path / "none.csv"
    assert f"{missing} cannot be read" in _refusal(str(missing), "--edge-url", "http://127.0.0.1:1")
