"""Access tokens: verified once, remembered until they expire or are revoked."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Protocol

from joserfc import jws, jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey

from chassis.core.errors import Unauthenticated
from chassis.trust.revocations import Revocations

ALGORITHM = "ES256"
TOKEN_TYPE = "at+jwt"  # noqa: S105 (a media type)

_LONGEST_TOKEN = 8192
_CACHED_TOKENS = 10_000
_CLOCK_SKEW_SECONDS = 5
_REFRESH_SECONDS = 300.0
_UNKNOWN_KEY_SECONDS = 5.0

FetchKeys = Callable[[], Awaitable[Iterable[Mapping[str, Any]]]]


class KeySource(Protocol):
    """Where the public keys come from that tokens are signed with."""

    async def key(self, kid: str) -> ECKey | None:
        """The key of this id, or None when there is none."""


class Principal:
    """Whom a verified token names."""

    __slots__ = ("expires_at", "issued_at", "permissions", "role", "session_id", "user_id")

    def __init__(self, claims: Mapping[str, Any]) -> None:
        self.user_id = str(claims["sub"])
        self.role = str(claims.get("role", ""))
        self.permissions = frozenset(str(claims.get("scope", "")).split())
        self.session_id = str(claims.get("sid", ""))
        self.expires_at = float(claims["exp"])
        self.issued_at = float(claims.get("iat", 0))


class FetchedKeys:
    """Identity's published keys, fetched when first needed, every five minutes, and when an unknown one turns up."""

    def __init__(self, fetch: FetchKeys) -> None:
        self._fetch = fetch
        self._keys: dict[str, ECKey] = {}
        self._fetched_at = float("-inf")
        self._lock = asyncio.Lock()

    async def key(self, kid: str) -> ECKey | None:
        """The key of this id; what the fetch raises when there is no answer and the key was not known before."""
        found = self._keys.get(kid)
        if found is None or self._age() > _REFRESH_SECONDS:
            await self._refresh(known=found is not None)
        return self._keys.get(kid)

    async def _refresh(self, *, known: bool) -> None:
        # An unknown key may be a forger's; it must not make every forged token a call to identity.
        pause = _REFRESH_SECONDS if known else _UNKNOWN_KEY_SECONDS
        async with self._lock:
            if self._age() < pause:
                return
            try:
                published = await self._fetch()
            except Exception:
                if known:  # Identity is away; the key in hand stays good.
                    return
                raise
            self._keys = {key["kid"]: ECKey.import_key(dict(key)) for key in published if _is_ours(key)}
            self._fetched_at = time.monotonic()

    def _age(self) -> float:
        return time.monotonic() - self._fetched_at


def _is_ours(key: Mapping[str, Any]) -> bool:
    return key.get("kty") == "EC" and key.get("crv") == "P-256" and bool(key.get("kid"))


class TokenVerifier:
    """Verifies bearer tokens: ES256 only, `typ: at+jwt`, exact issuer and audience, by keys we published."""

    def __init__(self, keys: KeySource, revocations: Revocations, *, issuer: str, audience: str) -> None:
        self.keys = keys
        self._revocations = revocations
        self._issuer = issuer
        self._audience = audience
        self._known: dict[str, Principal] = {}
        revocations.on_revoked(self._forget)

    def known(self, token: str) -> Principal | None:
        """Whom a token names that was verified before and is still good."""
        principal = self._known.get(token)
        return principal if principal is not None and principal.expires_at > time.time() else None

    async def verify(self, token: str) -> Principal:
        """Whom a token names. Unauthenticated when it is not good, AioRpcError when no key can be had."""
        if len(token) > _LONGEST_TOKEN:
            raise _invalid()
        try:
            key = await self.keys.key(self._key_id(token))
            if key is None:
                raise _invalid()
            # Header parameters that carry or locate keys (jku, x5u, jwk) are never looked at.
            decoded = jwt.decode(token, key, algorithms=[ALGORITHM])
            principal = self._principal(decoded.claims)
        except (JoseError, ValueError, TypeError, KeyError):
            raise _invalid() from None
        if self._revocations.covers(principal.user_id, principal.session_id, principal.issued_at):
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

    def _remember(self, token: str, principal: Principal) -> None:
        if len(self._known) >= _CACHED_TOKENS:
            now = time.time()
            self._known = {text: known for text, known in self._known.items() if known.expires_at > now}
        if len(self._known) >= _CACHED_TOKENS:
            del self._known[next(iter(self._known))]  # the oldest
        self._known[token] = principal

    def _forget(self, user_id: str) -> None:
        self._known = {text: known for text, known in self._known.items() if known.user_id != user_id}


def _invalid() -> Unauthenticated:
    return Unauthenticated("TOKEN_INVALID", "The access token is not valid, or not any more; sign in again.")
