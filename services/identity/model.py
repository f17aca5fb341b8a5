"""Tables of identity, and the rules that hold for them. Times are UTC."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime

from sqlalchemy import CheckConstraint, ForeignKey, Index, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column, relationship

from chassis.core import uuid7
from chassis.data import Model, Resource
from services.identity.settings import REFRESH_TOKEN_LIFE, SESSION_LIFE

ADMIN, STAFF, CUSTOMER, SERVICE = ROLES = ("admin", "staff", "customer", "service")
# Only callers who may assign roles may change accounts with these, or staff could make themselves administrators.
PROTECTED_ROLES = frozenset({ADMIN, STAFF})


def now() -> datetime:
    """The current time."""
    return datetime.now(UTC)


def normal_email(email: str) -> str:
    """The spelling of an email address that is stored and looked up."""
    return email.strip().lower()


class User(Resource):
    """A person, or a machine, that can sign in."""

    __tablename__ = "users"
    __table_args__ = (
        CheckConstraint("role IN ('admin', 'staff', 'customer', 'service')", name="role"),
        Index("users_username_key", text("lower(username)"), unique=True),
    )

    username: Mapped[str]
    email: Mapped[str] = mapped_column(unique=True)
    password_hash: Mapped[str]
    first_name: Mapped[str]
    last_name: Mapped[str]
    role: Mapped[str]
    disabled_at: Mapped[datetime | None]

    @classmethod
    def register(
        cls, id: uuid.UUID, username: str, email: str, password_hash: str, role: str = CUSTOMER
    ) -> User:
        """Creates a user. `email` may be in any spelling."""
        return cls.new(
            id,
            username=username,
            email=normal_email(email),
            password_hash=password_hash,
            first_name="",
            last_name="",
            role=role,
        )

    @property
    def disabled(self) -> bool:
        """Whether sign-in is blocked."""
        return self.disabled_at is not None


class Session(Model):
    """A sign-in and its family of refresh tokens."""

    __tablename__ = "sessions"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    user_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime] = mapped_column(index=True)
    revoked_at: Mapped[datetime | None]

    @classmethod
    def start(cls, user_id: uuid.UUID) -> Session:
        """Creates a session of a user."""
        moment = now()
        return cls(id=uuid7(), user_id=user_id, created_at=moment, expires_at=moment + SESSION_LIFE)

    @property
    def live(self) -> bool:
        """Whether the session can still be refreshed."""
        return self.revoked_at is None and now() < self.expires_at


class RefreshToken(Model):
    """A refresh token, stored only as its hash; can be used once."""

    __tablename__ = "refresh_tokens"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    session_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("sessions.id", ondelete="CASCADE"), index=True)
    token_hash: Mapped[bytes] = mapped_column(unique=True)
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime]
    used_at: Mapped[datetime | None]

    session: Mapped[Session] = relationship(lazy="raise")

    @classmethod
    def of(cls, session: Session, token_hash: bytes) -> RefreshToken:
        """Creates the next token of a session."""
        moment = now()
        expires_at = min(moment + REFRESH_TOKEN_LIFE, session.expires_at)
        return cls(
            id=uuid7(), session=session, token_hash=token_hash, created_at=moment, expires_at=expires_at
        )

    @property
    def live(self) -> bool:
        """Whether the token was never used and has not expired."""
        return self.used_at is None and now() < self.expires_at


class SigningKey(Model):
    """A key that signs access tokens from `signs_from` until its successor does; published until `expires_at`."""

    __tablename__ = "signing_keys"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    public_key: Mapped[dict[str, str]] = mapped_column(JSONB)
    private_key: Mapped[bytes]
    created_at: Mapped[datetime]
    signs_from: Mapped[datetime]
    expires_at: Mapped[datetime | None]
