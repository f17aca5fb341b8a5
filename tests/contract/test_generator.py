"""The generator: what it refuses, and that it never leaves half of its work behind."""

from pathlib import Path

import pytest

from meshctl.build.gen import files, protoc

ROOT = Path(__file__).resolve().parents[2]


def test_a_broken_contract_is_named_with_its_line(tmp_path: Path) -> None:
    proto = tmp_path / "proto/protomesh/broken/v1/broken.proto"
    proto.parent.mkdir(parents=True)
    proto.write_text('syntax = "proto3";\n\nmessage Broken {\n  string id 1;\n}\n')
    with pytest.raises(protoc.ContractError, match=r"broken\.proto:4:"):
        protoc.compile_contracts(tmp_path / "proto", tmp_path / "python", tmp_path / "image.binpb")


def test_compiling_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    for run in ("first", "second"):
        protoc.compile_contracts(ROOT / "proto", tmp_path / run / "python", tmp_path / run / "image.binpb")
    assert files.drift(tmp_path / "first", tmp_path / "second") == []


def test_publishing_changes_only_what_differs_and_removes_what_is_gone(tmp_path: Path) -> None:
    fresh, target = tmp_path / "fresh", tmp_path / "target"
    for directory in (fresh, target):
        directory.mkdir()
        (directory / "same.py").write_text("same")
    (fresh / "new.py").write_text("new")
    (target / "gone.py").write_text("gone")
    before = (target / "same.py").stat().st_ino
    assert files.publish(fresh, target) == ["gone.py", "new.py"]
    assert sorted(path.name for path in target.iterdir()) == ["new.py", "same.py"]
    assert (target / "same.py").stat().st_ino == before
