"""Rows and entities to messages."""

from collections.abc import Iterator, Sequence
from uuid import UUID

from protomesh.identity.v1.auth_service_pb2 import JsonWebKey, JsonWebKeySet, RegisteredUser, SigningKey
from protomesh.identity.v1.identity_events_pb2 import SessionsRevoked
from protomesh.identity.v1.role_service_pb2 import Role
from protomesh.identity.v1.user_pb2 import Account, CurrentUser, PublicProfile, UserReference
from protomesh.identity.v1.user_pb2 import User as UserMessage

from chassis import contract
from chassis.core import timestamp
from chassis.data import Row
from services.identity.model import User, now
from services.identity.signing_keys import Key

# Keeps an event far below the broker's limit on messages.
SESSIONS_IN_AN_EVENT = 500


def registered_user(user: User) -> RegisteredUser:
    """What registration answers."""
    return RegisteredUser(id=str(user.id), username=user.username, email=user.email)


def user_message(user: User | Row) -> UserMessage:
    """A user as the user sees it."""
    return UserMessage(**_profile(user))


def _profile(user: User | Row) -> dict[str, str]:
    return {
        "id": str(user.id),
        "username": user.username,
        "email": user.email,
        "first_name": user.first_name,
        "last_name": user.last_name,
        "etag": str(user.version),
    }


def account_message(user: User | Row) -> Account:
    """A user as an administrator sees it."""
    return Account(
        **_profile(user),
        role=Account.Role.Value(user.role),
        disabled=user.disabled_at is not None,
        created_at=timestamp(user.created_at),
        updated_at=timestamp(user.updated_at),
    )


def current_user(user: Row) -> CurrentUser:
    """A user as the user sees it, with what it may do."""
    return CurrentUser(
        **_profile(user),
        role=Account.Role.Value(user.role),
        permissions=sorted(contract.permissions_of(user.role)),
        created_at=timestamp(user.created_at),
        updated_at=timestamp(user.updated_at),
    )


def user_reference(row: Row) -> UserReference:
    """A user as other services see it."""
    return UserReference(id=str(row.id), username=row.username, disabled=row.disabled_at is not None)


def public_profile(row: Row) -> PublicProfile:
    """A user as people see each other who share something."""
    return PublicProfile(
        id=str(row.id), username=row.username, first_name=row.first_name, last_name=row.last_name
    )


def role_message(name: str) -> Role:
    """A role with what the contracts grant it."""
    return Role(name=name, permissions=sorted(contract.permissions_of(name)))


def json_web_key_set(keys: Sequence[Key]) -> JsonWebKeySet:
    """The public halves of keys."""
    return JsonWebKeySet(keys=(JsonWebKey(**key.public) for key in keys))


def signing_key(key: Key) -> SigningKey:
    """A key by its name."""
    return SigningKey(kid=key.kid, signs_from=timestamp(key.signs_from))


def sessions_revoked(user_id: UUID, session_ids: Sequence[UUID]) -> Iterator[SessionsRevoked]:
    """The fact that sessions ended, in as many events as they need; none for none."""
    revoked_at = timestamp(now())
    for start in range(0, len(session_ids), SESSIONS_IN_AN_EVENT):
        some = map(str, session_ids[start : start + SESSIONS_IN_AN_EVENT])
        yield SessionsRevoked(user_id=str(user_id), session_ids=some, revoked_at=revoked_at)
