"""Whom a process trusts: certificates, access tokens, and the sessions that were revoked."""

from chassis.trust import tokens
from chassis.trust.certificates import Certificates
from chassis.trust.revocations import Revocations
from chassis.trust.tokens import FetchedKeys, TokenVerifier

__all__ = ["Certificates", "FetchedKeys", "Revocations", "TokenVerifier", "tokens"]
