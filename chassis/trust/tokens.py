"""Access tokens: verified once, remembered until they expire or are revoked."""

import time
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from joserfc import jws, jwt
from joserfc.errors import JoseError

from chassis.core.errors import Unauthenticated
from chassis.trust.keys import KeySource
from chassis.trust.revocations import Revocations

ALGORITHM = "ES256"
TOKEN_TYPE = "at+jwt"  # noqa: S105 (a media type)

REMEMBERED_TOKENS = 10_000
_LONGEST_TOKEN = 8192
_CLOCK_SKEW_SECONDS = 5


class Principal:
    """The user that a verified token names."""

    __slots__ = ("expires_at", "issued_at", "permissions", "role", "session_id", "user_id")

    def __init__(self, claims: Mapping[str, Any]) -> None:
        self.user_id = str(claims["sub"])
        self.role = str(claims.get("role", ""))
        self.permissions = frozenset(str(claims.get("scope", "")).split())
        self.session_id = str(claims.get("sid", ""))
        self.expires_at = float(claims["exp"])
        self.issued_at = float(claims.get("iat", 0))


class TokenVerifier:
    """Verifies bearer tokens: ES256 only, `typ: at+jwt`, exact issuer and audience, signed by keys we published.

    Remembers at most `remembered` tokens and forgets those that were not seen for longest.
    """

    def __init__(
        self,
        keys: KeySource,
        revocations: Revocations,
        *,
        issuer: str,
        audience: str,
        remembered: int = REMEMBERED_TOKENS,
    ) -> None:
        self.keys = keys
        self._revocations = revocations
        self._issuer = issuer
        self._audience = audience
        self._remembered = remembered
        # The token that was not seen for longest comes first.
        self._known: OrderedDict[str, Principal] = OrderedDict()

    def known(self, token: str) -> Principal | None:
        """The user of a token that was verified before and is still valid; None for any other token."""
        principal = self._known.get(token)
        if principal is None:
            return None
        if not self.holds(principal):
            del self._known[token]
            return None
        self._known.move_to_end(token)
        return principal

    def holds(self, principal: Principal) -> bool:
        """Whether the token behind a user has neither expired nor been revoked."""
        return principal.expires_at > time.time() and not self._revoked(principal)

    async def verify(self, token: str) -> Principal:
        """Verifies a token and returns its user.

        Raises Unauthenticated when the token is not valid, Unavailable when its key cannot be fetched now.
        """
        if len(token) > _LONGEST_TOKEN:
            raise _invalid()
        try:
            key = await self.keys.key(self._key_id(token))
            if key is None:
                raise _invalid()
            # Header parameters that carry or locate keys (jku, x5u, jwk) are never used.
            decoded = jwt.decode(token, key, algorithms=[ALGORITHM])
            principal = self._principal(decoded.claims)
        except (JoseError, ValueError, TypeError, KeyError):
            raise _invalid() from None
        if self._revoked(principal):
            raise Unauthenticated("TOKEN_REVOKED", "The session behind this token has ended; sign in again.")
        self._remember(token, principal)
        return principal

    def _key_id(self, token: str) -> str:
        header = jws.extract_compact(token.encode()).headers()
        if header.get("typ") != TOKEN_TYPE or header.get("alg") != ALGORITHM or "crit" in header:
            raise _invalid()
        return str(header["kid"])

    def _principal(self, claims: Mapping[str, Any]) -> Principal:
        now = time.time()
        good = (
            claims["iss"] == self._issuer
            and claims["aud"] == self._audience
            and claims["exp"] > now
            and claims.get("nbf", 0) <= now + _CLOCK_SKEW_SECONDS
            and claims.get("iat", 0) <= now + _CLOCK_SKEW_SECONDS
            and claims["sub"]
        )
        if not good:
            raise _invalid()
        return Principal(claims)

    def _revoked(self, principal: Principal) -> bool:
        return self._revocations.covers(principal.user_id, principal.session_id, principal.issued_at)

    def _remember(self, token: str, principal: Principal) -> None:
        self._known[token] = principal
        if len(self._known) > self._remembered:
            self._known.popitem(last=False)


def _invalid() -> Unauthenticated:
    return Unauthenticated("TOKEN_INVALID", "The access token is not valid or has expired; sign in again.")
