"""The mesh's own certificate authority and a certificate for each workload: replaces SPIRE in development."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from meshctl.core import deployables
from meshctl.core.files import write_private

TRUST_DOMAIN = "protomesh.local"
AUTHORITY_LIFE, WORKLOAD_LIFE, RENEW_BEFORE = timedelta(days=3650), timedelta(days=90), timedelta(days=30)
# The keys that no program of the mesh needs: the authority's, and those of people.
UNSHARED = frozenset(("ca", *deployables.PEOPLE))
# A workload's clock may be a little behind.
BACKDATED = timedelta(minutes=5)


def issue(folder: Path, workloads: Iterable[str]) -> list[str]:
    """Writes `ca.pem`, and `NAME.pem` and `NAME.key` for each workload, into `folder`; returns the names it renewed.

    A certificate that is valid for another 30 days is kept. Keys, the authority's `ca.key` too, are readable only by
    their owner. A certificate names `spiffe://protomesh.local/NAME`, and the DNS names NAME and localhost.
    """
    folder.mkdir(parents=True, exist_ok=True)
    new_authority = not _lasts(folder / "ca.pem")
    if new_authority:
        _write(folder, "ca", *_authority())
    authority = x509.load_pem_x509_certificate((folder / "ca.pem").read_bytes())
    key = serialization.load_pem_private_key((folder / "ca.key").read_bytes(), password=None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    renewed = [name for name in workloads if new_authority or not _lasts(folder / f"{name}.pem")]
    for name in renewed:
        _write(folder, name, *_workload(name, authority, key))
    return renewed


def _lasts(certificate: Path) -> bool:
    if not certificate.exists() or not certificate.with_suffix(".key").exists():
        return False
    expiry = x509.load_pem_x509_certificate(certificate.read_bytes()).not_valid_after_utc
    return expiry - datetime.now(UTC) > RENEW_BEFORE


def _authority() -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name("Protomesh development authority")
    builder = _builder(name, name, key, AUTHORITY_LIFE).add_extension(
        x509.BasicConstraints(ca=True, path_length=0), critical=True
    )
    return builder.add_extension(_usage(signs_certificates=True), critical=True).sign(
        key, hashes.SHA256()
    ), key


def _workload(
    name: str, authority: x509.Certificate, authority_key: ec.EllipticCurvePrivateKey
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    key = ec.generate_private_key(ec.SECP256R1())
    identities = [
        x509.UniformResourceIdentifier(f"spiffe://{TRUST_DOMAIN}/{name}"),
        x509.DNSName(name),
        x509.DNSName("localhost"),
    ]
    both_sides = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key())
    builder = (
        _builder(_name(name), authority.subject, key, WORKLOAD_LIFE)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(both_sides, critical=False)
        .add_extension(x509.SubjectAlternativeName(identities), critical=False)
        .add_extension(issuer, critical=False)
    )
    return builder.sign(authority_key, hashes.SHA256()), key


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, life: timedelta
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + life)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _write(folder: Path, name: str, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
    # The key first: a reader that finds the new certificate finds its key.
    encoding, text = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    plain = key.private_bytes(encoding, text, serialization.NoEncryption())
    write_private(folder / f"{name}.key", plain, alone=name in UNSHARED)
    write_private(folder / f"{name}.pem", certificate.public_bytes(encoding))
