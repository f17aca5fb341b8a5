"""The data folder: one mesh at a time, secrets that stay."""

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


def test_two_processes_that_make_secrets_keep_each_others(tmp_path: Path) -> None:
    ours, theirs = MeshFolder(tmp_path).secrets(), MeshFolder(tmp_path).secrets()
    made = theirs.get("theirs")
    ours.get("ours")
    assert MeshFolder(tmp_path).secrets().get("theirs") == made


def test_a_nearly_full_disk_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meshctl.core.folder.LEAST_FREE_BYTES", 1 << 60)
    with pytest.raises(OperatorError, match=r"^The disk of .* is full: free \d+ MiB, or choose --data\.$"):
        MeshFolder(tmp_path / "mesh").prepare()
