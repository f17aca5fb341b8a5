"""The data folder: one mesh at a time, secrets that stay."""

import os
from pathlib import Path

import pytest

from meshctl.core.failure import OperatorError
from meshctl.core.folder import MeshFolder


def test_a_folder_is_held_by_one_supervisor_at_a_time(tmp_path: Path) -> None:
    folder = MeshFolder(tmp_path)
    with folder.lock(), pytest.raises(OperatorError, match="A mesh already runs on"):
        folder.lock()
    folder.lock().close()


def test_secrets_stay_from_start_to_start_and_are_private(tmp_path: Path) -> None:
    folder = MeshFolder(tmp_path)
    secret = folder.secrets().get("nats")
    assert folder.secrets().get("nats") == secret
    assert folder.secrets().get("valkey") != secret
    assert (tmp_path / "secrets.json").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("damage", ["", '{"nats": "tru', "[1]", "gone"])
def test_damaged_secrets_are_taken_from_their_copy_and_mended(tmp_path: Path, damage: str) -> None:
    secret = MeshFolder(tmp_path).secrets().get("nats")
    first = tmp_path / "secrets.json"
    sound = first.read_text()
    first.unlink() if damage == "gone" else first.write_text(damage)
    assert MeshFolder(tmp_path).secrets().get("nats") == secret
    assert first.read_text() == sound
    assert first.stat().st_mode & 0o777 == 0o600


def test_secrets_that_are_damaged_twice_are_not_replaced_by_new_ones(tmp_path: Path) -> None:
    MeshFolder(tmp_path).secrets().get("nats")
    for copy in ("secrets.json", "secrets.copy.json"):
        (tmp_path / copy).write_text("")
    with pytest.raises(OperatorError, match=r"^Neither .*/secrets.json nor secrets.copy.json can be read"):
        MeshFolder(tmp_path).secrets()
    assert not (tmp_path / "secrets.json").read_text()


def test_a_secret_is_on_disk_before_it_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    monkeypatch.setattr(
        os, "fsync", lambda number: synced.append(str(Path(f"/proc/self/fd/{number}").readlink()))
    )
    MeshFolder(tmp_path).secrets().get("nats")
    assert len(synced) == 4
    assert synced[1::2] == [str(tmp_path)] * 2
    assert all("secrets" in name for name in synced[::2])


def test_two_processes_that_make_secrets_keep_each_others(tmp_path: Path) -> None:
    ours, theirs = MeshFolder(tmp_path).secrets(), MeshFolder(tmp_path).secrets()
    made = theirs.get("theirs")
    ours.get("ours")
    assert MeshFolder(tmp_path).secrets().get("theirs") == made


def test_a_nearly_full_disk_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meshctl.core.folder.LEAST_FREE_BYTES", 1 << 60)
    with pytest.raises(OperatorError, match=r"^The disk of .* is full: free \d+ MiB, or choose --data\.$"):
        MeshFolder(tmp_path / "mesh").prepare()
