"""Sessions: started by a sign-in, continued by single-use refresh tokens, ended for all services."""

import hashlib
import secrets
from datetime import datetime
from uuid import UUID

from joserfc import jwt
from protomesh.identity.v1.auth_service_pb2 import TokenGrant

from chassis import contract
from chassis.core import Unauthenticated, uuid7
from chassis.data import Database, UnitOfWork
from services.identity import convert, repository
from services.identity.model import ADMIN, RefreshToken, Session, User, now
from services.identity.settings import ACCESS_TOKEN_LIFE, IdentitySettings
from services.identity.signing_keys import ALGORITHM, KeyRing

REFRESH_TOKEN_BYTES = 32
# The user id in the tokens of operators. No account has it.
OPERATOR_ID = UUID("00000000-0000-7000-8000-000000000000")


class Sessions:
    """Starts, continues and ends sessions, in the caller's unit of work when there is one."""

    def __init__(self, keys: KeyRing, settings: IdentitySettings) -> None:
        self._keys = keys
        self._issuer = settings.token_issuer
        self._audience = settings.token_audience

    async def start(self, database: Database, user_id: UUID, password_hash: str) -> TokenGrant | None:
        """Starts a session of a user. Returns None when the account is disabled or its password has changed.

        Uses one statement, which locks the user's row, so that a session cannot slip past a concurrent revocation.
        """
        session, refresh_token = Session.start(user_id), _refresh_token()
        token = RefreshToken.of(session, _digest(refresh_token))
        account = await database.one(
            repository.START_SESSION,
            user_id=user_id,
            password_hash=password_hash,
            session_id=session.id,
            started_at=session.created_at,
            session_expires_at=session.expires_at,
            token_id=token.id,
            token_hash=token.token_hash,
            token_expires_at=token.expires_at,
        )
        return account and self._grant(user_id, account.role, session.id, refresh_token)

    async def carry_on(self, work: UnitOfWork, refresh_token: str) -> TokenGrant | None:
        """Returns the session's next tokens. When the token was used before, ends the session and returns None.

        Raises Unauthenticated REFRESH_TOKEN_INVALID.
        """
        token = await repository.lock_refresh_token(work, _digest(refresh_token))
        # The lock on the session makes a revocation happen before or after, never in between.
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
        successor = _refresh_token()
        work.add(RefreshToken.of(session, _digest(successor)))
        return self._grant(user.id, user.role, session.id, successor)

    def operator(self) -> TokenGrant:
        """Returns the tokens of an operator, who has no account and no session: a certificate is checked each time."""
        return self._grant(OPERATOR_ID, ADMIN, uuid7(), refresh_token="")

    def _grant(self, user_id: UUID, role: str, session_id: UUID, refresh_token: str) -> TokenGrant:
        return TokenGrant(
            access_token=self._access_token(user_id, role, session_id, now()),
            token_type="Bearer",  # noqa: S106 (names the kind of token)
            expires_in=int(ACCESS_TOKEN_LIFE.total_seconds()),
            refresh_token=refresh_token,
        )

    def _access_token(self, user_id: UUID, role: str, session_id: UUID, issued_at: datetime) -> str:
        key = self._keys.signer()
        header = {"alg": ALGORITHM, "typ": "at+jwt", "kid": key.kid}
        claims = {
            "iss": self._issuer,
            "aud": self._audience,
            "sub": str(user_id),
            "role": role,
            "scope": " ".join(sorted(contract.permissions_of(role))),
            "sid": str(session_id),
            "iat": int(issued_at.timestamp()),
            "exp": int((issued_at + ACCESS_TOKEN_LIFE).timestamp()),
            "jti": str(uuid7()),
        }
        return jwt.encode(header, claims, key.private, algorithms=[ALGORITHM])


async def end(work: UnitOfWork, user_id: UUID, *, only: UUID | None = None, but: UUID | None = None) -> None:
    """Ends sessions of a user (all of them, one of them, or all but one) and publishes that to every service."""
    ended = await repository.revoke_sessions(work, user_id, only=only, but=but)
    for event in convert.sessions_revoked(user_id, ended):
        work.publish(event, version=0)  # the sessions of a user have no version in common


def refresh_token_invalid() -> Unauthenticated:
    """The error for a refresh token that is unknown, expired or of an ended session."""
    return Unauthenticated("REFRESH_TOKEN_INVALID", "The refresh token is not valid; sign in again.")


def _refresh_token() -> str:
    return secrets.token_urlsafe(REFRESH_TOKEN_BYTES)


def _digest(refresh_token: str) -> bytes:
    # A token of 256 random bits needs no slow hash: there is nothing to guess.
    return hashlib.sha256(refresh_token.encode()).digest()
