"""What a process trusts: certificates, access tokens, and which sessions were revoked."""

from chassis.trust import keys, tokens
from chassis.trust.certificates import CertificateError, Certificates
from chassis.trust.keys import FetchedKeys, KeySource
from chassis.trust.revocations import Revocations
from chassis.trust.tokens import TokenVerifier

__all__ = [
    "CertificateError",
    "Certificates",
    "FetchedKeys",
    "KeySource",
    "Revocations",
    "TokenVerifier",
    "keys",
    "tokens",
]
