"""Rows and entities to messages."""

from collections.abc import Iterator, Sequence
from uuid import UUID

from protomesh.identity.v1.auth_service_pb2 import JsonWebKey, JsonWebKeySet, RegisteredUser, SigningKey
from protomesh.identity.v1.identity_events_pb2 import SessionsRevoked
from protomesh.identity.v1.role_service_pb2 import Role
from protomesh.identity.v1.user_pb2 import Account, CurrentUser, PublicProfile, UserReference
from protomesh.identity.v1.user_pb2 import User as UserMessage

from chassis import contract
from chassis.contract.mapping import Mapper
from chassis.core import timestamp
from services.identity.model import User, now
from services.identity.signing_keys import Key

# Keeps an event far below the broker's limit on message size.
SESSIONS_IN_AN_EVENT = 500


# The response to a registration.
registered_user = Mapper(RegisteredUser, User)
# A user as the user sees it.
user_message = Mapper(UserMessage, User)
# A user as an administrator sees it.
account_message = Mapper(Account, User, disabled=lambda user: user.disabled_at is not None)
# A user as the user sees it, with permissions.
current_user = Mapper(CurrentUser, User, permissions=lambda user: sorted(contract.permissions_of(user.role)))
# A user as other services see it.
user_reference = Mapper(UserReference, User, disabled=lambda user: user.disabled_at is not None)
# A user as seen by people who share something with that user.
public_profile = Mapper(PublicProfile, User)


def role_message(name: str) -> Role:
    """A role with the permissions that the contracts grant it."""
    return Role(name=name, permissions=sorted(contract.permissions_of(name)))


def json_web_key_set(keys: Sequence[Key]) -> JsonWebKeySet:
    """The public halves of keys."""
    return JsonWebKeySet(keys=(JsonWebKey(**key.public) for key in keys))


def signing_key(key: Key) -> SigningKey:
    """A key without its key material."""
    return SigningKey(kid=key.kid, signs_from=timestamp(key.signs_from))


def sessions_revoked(user_id: UUID, session_ids: Sequence[UUID]) -> Iterator[SessionsRevoked]:
    """The fact that sessions ended, split into as many events as needed; no event when no session ended."""
    revoked_at = timestamp(now())
    for start in range(0, len(session_ids), SESSIONS_IN_AN_EVENT):
        some = map(str, session_ids[start : start + SESSIONS_IN_AN_EVENT])
        yield SessionsRevoked(user_id=str(user_id), session_ids=some, revoked_at=revoked_at)
