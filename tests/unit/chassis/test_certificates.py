"""Certificates that are renewed while a process runs, and those that cannot be used."""

import pathlib

import pytest

from chassis.trust import CertificateError, Certificates
from tests.certificates import Authority, issue


@pytest.fixture
def authority(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Authority:
    """Of a directory whose files are looked at whenever they are used."""
    monkeypatch.setattr("chassis.trust.certificates._CHECK_SECONDS", 0.0)
    return issue(tmp_path, "scratch")


def test_new_certificates_are_taken_once_their_files_fit_together(
    tmp_path: pathlib.Path, authority: Authority
) -> None:
    loaded = Certificates(tmp_path, "scratch")
    assert loaded.generation() == loaded.generation() == 0
    chain = tmp_path / "scratch.pem"
    before = chain.read_bytes()
    authority.issue(tmp_path, "scratch")
    after = chain.read_bytes()
    chain.write_bytes(before)
    assert loaded.generation() == 0
    chain.unlink()
    assert loaded.generation() == 0
    chain.write_bytes(after)
    assert loaded.generation() == loaded.generation() == 1
    authority.issue(tmp_path, "scratch")
    assert loaded.generation() == 2


def test_files_are_looked_at_once_a_second(
    tmp_path: pathlib.Path, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chassis.trust.certificates._CHECK_SECONDS", 60.0)
    loaded = Certificates(tmp_path, "scratch")
    assert loaded.generation() == 0
    authority.issue(tmp_path, "scratch")
    assert loaded.generation() == 0


@pytest.mark.parametrize("name", ["scratch.key", "scratch.pem"])
def test_a_damaged_file_is_said_so(tmp_path: pathlib.Path, authority: Authority, name: str) -> None:
    (tmp_path / name).write_text("no PEM")
    with pytest.raises(CertificateError, match="is damaged"):
        Certificates(tmp_path, "scratch")


def test_a_file_that_cannot_be_read_is_said_so(tmp_path: pathlib.Path, authority: Authority) -> None:
    (tmp_path / "scratch.key").unlink()
    (tmp_path / "scratch.key").mkdir()
    with pytest.raises(CertificateError, match=r"scratch\.key cannot be read"):
        Certificates(tmp_path, "scratch")
