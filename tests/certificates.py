"""A certificate authority for tests: SPIFFE identities as the mesh has them."""

import datetime
import pathlib
from collections.abc import Sequence

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_DAY = datetime.timedelta(days=1)


class Authority:
    """Issues certificates into directories as the mesh expects them: `ca.pem`, `<name>.pem`, `<name>.key`."""

    @classmethod
    def of(cls, directory: pathlib.Path) -> "Authority":
        """The authority of a mesh, by its `ca.pem` and `ca.key`."""
        found = cls()
        key = serialization.load_pem_private_key(directory.joinpath("ca.key").read_bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        found._key = key
        found._certificate = x509.load_pem_x509_certificate(directory.joinpath("ca.pem").read_bytes())
        return found

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test authority")])
        self._certificate = (
            _builder(name, name, self._key)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(self._key, hashes.SHA256())
        )

    def issue(
        self,
        directory: pathlib.Path,
        name: str,
        trust_domain: str = "protomesh.local",
        *,
        identities: Sequence[str] = (),
        life: datetime.timedelta = _DAY,
    ) -> None:
        """Writes a workload's certificate and key, and the authority's own certificate.

        `identities` are SPIFFE ids in place of the workload's own; `life` is counted from now.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        names = [
            *map(x509.UniformResourceIdentifier, identities or [f"spiffe://{trust_domain}/{name}"]),
            x509.DNSName(name),
            x509.DNSName("localhost"),
        ]
        usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        certificate = (
            _builder(subject, self._certificate.subject, key, life)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        pem = serialization.Encoding.PEM
        directory.joinpath("ca.pem").write_bytes(self._certificate.public_bytes(pem))
        directory.joinpath(f"{name}.key").write_bytes(
            key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        )
        directory.joinpath(f"{name}.pem").write_bytes(certificate.public_bytes(pem))


def issue(directory: pathlib.Path, *names: str) -> Authority:
    """A fresh authority, and a certificate of it for each workload."""
    authority = Authority()
    for name in names:
        authority.issue(directory, name)
    return authority


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    life: datetime.timedelta = _DAY,
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _DAY)
        .not_valid_after(now + life)
    )
