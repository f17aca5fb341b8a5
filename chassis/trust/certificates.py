"""mTLS with SPIFFE identities: certificates are read from a directory, and read again when they change."""

import logging
import pathlib
import threading
import time
from dataclasses import dataclass
from typing import Any

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from chassis.core.settings import Settings

logger = logging.getLogger(__name__)

_CHECK_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class _Pem:
    """A certificate authority, a key and its chain, as PEM."""

    authority: bytes
    key: bytes
    chain: bytes


class CertificateError(Exception):
    """Certificates are missing or do not match; the text says which."""


class Certificates:
    """The certificates of one workload. Files are checked at most once a second, and only when they are used."""

    def __init__(self, directory: pathlib.Path, name: str) -> None:
        """Reads the certificates. Raises CertificateError when they are missing or do not match."""
        self._paths = (directory / "ca.pem", directory / f"{name}.key", directory / f"{name}.pem")
        self._lock = threading.Lock()
        self._stamp = self._read_stamp()
        self._pem = self._read()
        self._generation = 0
        self._next_check = 0.0

    @classmethod
    def of(cls, settings: Settings) -> "Certificates | None":
        """The service's certificates; None when the settings do not name a directory."""
        return cls(settings.tls_directory, settings.service) if settings.tls_directory else None

    def generation(self) -> int:
        """A number that increases with each renewal of the certificates. Files that do not match yet are read later."""
        with self._lock:
            if time.monotonic() >= self._next_check:
                self._next_check = time.monotonic() + _CHECK_SECONDS
                self._look()
            return self._generation

    def channel_credentials(self) -> grpc.ChannelCredentials:
        """Credentials for a channel that is opened now."""
        self.generation()
        pem = self._pem
        return grpc.ssl_channel_credentials(pem.authority, pem.key, pem.chain)

    def server_credentials(self) -> grpc.ServerCredentials:
        """Credentials that require a client certificate and check the files for changes at every handshake."""
        return grpc.dynamic_ssl_server_credentials(
            self._configuration(), self._fetch, require_client_authentication=True
        )

    def _fetch(self) -> Any:
        # Runs in gRPC's threads. None keeps the current configuration.
        before = self._served
        return None if self.generation() == before else self._configuration()

    def _configuration(self) -> Any:
        self._served = self._generation
        pem = self._pem
        return grpc.ssl_server_certificate_configuration([(pem.key, pem.chain)], pem.authority)

    def _look(self) -> None:
        try:
            stamp = self._read_stamp()
            if stamp == self._stamp:
                return
            self._pem = self._read()
        except CertificateError as error:
            logger.warning("The new certificates cannot be used; the current ones stay in use: %s", error)
            return
        self._stamp = stamp
        self._generation += 1
        logger.info("Renewed the certificates from %s.", self._paths[2])

    def _read_stamp(self) -> tuple[tuple[int, int, int], ...]:
        try:
            states = [path.stat() for path in self._paths]
        except OSError as error:
            raise CertificateError(f"{error.filename} cannot be read: {error.strerror}.") from error
        return tuple((state.st_mtime_ns, state.st_ino, state.st_size) for state in states)

    def _read(self) -> _Pem:
        try:
            authority, key, chain = (path.read_bytes() for path in self._paths)
            matches = (
                load_pem_private_key(key, None).public_key()
                == x509.load_pem_x509_certificates(chain)[0].public_key()
            )
        except OSError as error:
            raise CertificateError(f"{error.filename} cannot be read: {error.strerror}.") from error
        except ValueError as error:
            raise CertificateError(f"{self._paths[1]} or {self._paths[2]} is damaged.") from error
        if not matches:
            raise CertificateError(f"{self._paths[1]} is not the key of {self._paths[2]}.")
        return _Pem(authority, key, chain)


def workload_of(context: Any, prefix: bytes) -> str:
    """The name in the peer's SPIFFE id when the id begins with `prefix` (`spiffe://<domain>/`), else "".

    Valid only while the call runs: gRPC frees the connection's data afterwards, and reading it then is a crash.
    """
    for identity in context.auth_context().get("peer_spiffe_id", ()):
        if identity.startswith(prefix):
            return str(identity[len(prefix) :], "ascii", "replace")
    return ""
