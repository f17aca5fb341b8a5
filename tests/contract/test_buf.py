"""Our buf configuration finds what it is there for."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from meshctl.build.gen import protoc

ROOT = Path(__file__).resolve().parents[2]
IMAGE = ROOT / "gen/descriptors/protomesh.binpb"
ORDER = "protomesh/ordering/v1/order.proto"


def buf(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = str(Path(sys.executable).parent / "buf")
    return subprocess.run([program, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.fixture
def changed(tmp_path: Path) -> Path:
    """An image in which an order's id has another number and no comment."""
    shutil.copytree(ROOT / "proto", tmp_path / "proto")
    order = tmp_path / "proto" / ORDER
    before = order.read_text()
    after = before.replace("  // UUIDv7.\n  string id = 1 [", "  string id = 1000 [", 1)
    assert after != before
    order.write_text(after)
    image = tmp_path / "image.binpb"
    protoc.compile_contracts(tmp_path / "proto", tmp_path / "python", image)
    return image


def test_a_changed_field_number_is_a_breaking_change(changed: Path) -> None:
    result = buf("breaking", str(changed), "--against", str(IMAGE))
    assert result.returncode != 0
    assert ORDER in result.stdout


def test_the_contracts_break_nothing_that_they_say_themselves() -> None:
    assert buf("breaking", str(IMAGE), "--against", str(IMAGE)).returncode == 0


def test_a_missing_comment_is_found(changed: Path) -> None:
    result = buf("lint", str(changed))
    assert result.returncode != 0
    assert f"{ORDER}:" in result.stdout
    assert "comment" in result.stdout
