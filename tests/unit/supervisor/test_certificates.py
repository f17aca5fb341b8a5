"""Development's certificates: who they name, who may read them, when they are renewed."""

from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtensionOID

from meshctl.pki import certificates


def read(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def test_a_certificate_names_its_workload_and_is_signed_by_the_authority(tmp_path: Path) -> None:
    certificates.issue(tmp_path, ["catalog"])
    certificate = read(tmp_path / "catalog.pem")
    names = certificate.extensions.get_extension_for_oid(ExtensionOID.SUBJECT_ALTERNATIVE_NAME).value
    assert isinstance(names, x509.SubjectAlternativeName)
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == ["spiffe://protomesh.local/catalog"]
    assert names.get_values_for_type(x509.DNSName) == ["catalog", "localhost"]
    certificate.verify_directly_issued_by(read(tmp_path / "ca.pem"))


def test_keys_are_readable_by_their_owner_alone(tmp_path: Path) -> None:
    certificates.issue(tmp_path, ["catalog"])
    for key in tmp_path.glob("*.key"):
        assert key.stat().st_mode & 0o777 == 0o600


def test_a_certificate_that_lasts_is_kept(tmp_path: Path) -> None:
    assert certificates.issue(tmp_path, ["catalog"]) == ["catalog"]
    before = (tmp_path / "catalog.pem").read_bytes()
    assert certificates.issue(tmp_path, ["catalog", "edge"]) == ["edge"]
    assert (tmp_path / "catalog.pem").read_bytes() == before


def test_a_certificate_close_to_its_end_is_renewed_by_the_same_authority(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as soon:
        soon.setattr(certificates, "WORKLOAD_LIFE", timedelta(days=29))
        certificates.issue(tmp_path, ["catalog"])
    authority = (tmp_path / "ca.pem").read_bytes()
    assert certificates.issue(tmp_path, ["catalog"]) == ["catalog"]
    assert certificates.issue(tmp_path, ["catalog"]) == []
    assert (tmp_path / "ca.pem").read_bytes() == authority


def test_a_new_authority_renews_every_certificate(tmp_path: Path) -> None:
    certificates.issue(tmp_path, ["catalog", "edge"])
    (tmp_path / "ca.pem").unlink()
    assert certificates.issue(tmp_path, ["catalog", "edge"]) == ["catalog", "edge"]
    read(tmp_path / "edge.pem").verify_directly_issued_by(read(tmp_path / "ca.pem"))
