"""Events about users. Their contracts leave personal data out."""

from collections.abc import Callable

from google.protobuf.message import Message
from protomesh.identity.v1.identity_events_pb2 import UserDisabled, UserEnabled, UserRegistered, UserUpdated

from chassis.core import timestamp
from chassis.data import UnitOfWork
from services.identity import convert
from services.identity.model import User


async def save(work: UnitOfWork, user: User, event: Callable[[User], Message]) -> None:
    """Writes a user, which increases its version, and publishes what happened to it."""
    await work.save(user)
    work.publish(event(user), version=user.version)


def registered(user: User) -> UserRegistered:
    """The fact that a user registered."""
    return UserRegistered(
        user_id=str(user.id),
        username=user.username,
        registered_at=timestamp(user.created_at),
        account=convert.account_message(user),
    )


def updated(user: User) -> UserUpdated:
    """The fact that profile, role or password was changed."""
    return UserUpdated(user_id=str(user.id), account=convert.account_message(user))


def disabled(user: User) -> UserDisabled:
    """The fact that the account was disabled."""
    return UserDisabled(
        user_id=str(user.id),
        account=convert.account_message(user),
        disabled_at=timestamp(user.updated_at),
    )


def enabled(user: User) -> UserEnabled:
    """The fact that the account was enabled."""
    return UserEnabled(
        user_id=str(user.id), account=convert.account_message(user), enabled_at=timestamp(user.updated_at)
    )
