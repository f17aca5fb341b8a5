"""Sessions: started at a sign-in, carried on by refresh tokens of one use, ended for all services."""

import hashlib
import secrets
from datetime import datetime
from uuid import UUID

from joserfc import jwt
from protomesh.identity.v1.auth_service_pb2 import TokenGrant

from chassis import contract
from chassis.core import Unauthenticated, uuid7
from chassis.data import UnitOfWork
from services.identity import convert, repository
from services.identity.model import RefreshToken, Session, User, now
from services.identity.settings import ACCESS_TOKEN_LIFE, IdentitySettings
from services.identity.signing_keys import ALGORITHM, KeyRing

REFRESH_TOKEN_BYTES = 32


class Sessions:
    """Starts, carries on and ends sessions, each within the caller's unit of work."""

    def __init__(self, keys: KeyRing, settings: IdentitySettings) -> None:
        self._keys = keys
        self._issuer = settings.token_issuer
        self._audience = settings.token_audience

    def start(self, work: UnitOfWork, user: User) -> TokenGrant:
        """A new session of a user whom the transaction has locked, lest it slip past a revocation."""
        session = Session.start(user.id)
        work.add(session)
        return self._grant(work, user, session)

    async def carry_on(self, work: UnitOfWork, refresh_token: str) -> TokenGrant | None:
        """The next tokens of the session; None when the token was used before: its session has ended.

        Raises Unauthenticated REFRESH_TOKEN_INVALID.
        """
        token = await repository.lock_refresh_token(work, _digest(refresh_token))
        # The lock on the session lets a revocation come before or after, never in between.
        session = await work.get(Session, token.session_id, for_update=True) if token else None
        user = await work.get(User, session.user_id) if session else None
        if not (token and session and user):
            raise refresh_token_invalid()
        if token.used_at is not None:
            await end(work, user.id, only=session.id)
            return None
        if user.disabled or not session.live or not token.live:
            raise refresh_token_invalid()
        token.used_at = now()
        return self._grant(work, user, session)

    def _grant(self, work: UnitOfWork, user: User, session: Session) -> TokenGrant:
        refresh_token = secrets.token_urlsafe(REFRESH_TOKEN_BYTES)
        work.add(RefreshToken.of(session, _digest(refresh_token)))
        return TokenGrant(
            access_token=self._access_token(user, session.id, now()),
            token_type="Bearer",  # noqa: S106 (names the kind of token)
            expires_in=int(ACCESS_TOKEN_LIFE.total_seconds()),
            refresh_token=refresh_token,
        )

    def _access_token(self, user: User, session_id: UUID, issued_at: datetime) -> str:
        key = self._keys.signer()
        header = {"alg": ALGORITHM, "typ": "at+jwt", "kid": key.kid}
        claims = {
            "iss": self._issuer,
            "aud": self._audience,
            "sub": str(user.id),
            "role": user.role,
            "scope": " ".join(sorted(contract.permissions_of(user.role))),
            "sid": str(session_id),
            "iat": int(issued_at.timestamp()),
            "exp": int((issued_at + ACCESS_TOKEN_LIFE).timestamp()),
            "jti": str(uuid7()),
        }
        return jwt.encode(header, claims, key.private, algorithms=[ALGORITHM])


async def end(work: UnitOfWork, user_id: UUID, *, only: UUID | None = None, but: UUID | None = None) -> None:
    """Ends sessions of a user (all of them, one of them, or all but one) and tells every service."""
    ended = await repository.revoke_sessions(work, user_id, only=only, but=but)
    for event in convert.sessions_revoked(user_id, ended):
        work.publish(event)


def refresh_token_invalid() -> Unauthenticated:
    """The answer to a refresh token that is unknown, expired or of an ended session."""
    return Unauthenticated("REFRESH_TOKEN_INVALID", "The refresh token is not valid; sign in again.")


def _digest(refresh_token: str) -> bytes:
    # A token of 256 random bits needs no slow hash: there is nothing to guess.
    return hashlib.sha256(refresh_token.encode()).digest()
