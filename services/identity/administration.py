"""Limits on what administrators of users may do."""

from collections.abc import Sequence
from uuid import UUID

from protomesh.permissions import IDENTITY_ROLES_ASSIGN

from chassis.core import FailedPrecondition, PermissionDenied
from chassis.rpc import Caller
from services.identity.model import PROTECTED_ROLES, User


def require_right_over(user: User, caller: Caller) -> None:
    """Raises PermissionDenied ROLE_PROTECTED unless the caller may change accounts with the user's role."""
    if (
        user.role in PROTECTED_ROLES
        and user.id != UUID(caller.user_id)
        and not caller.may(IDENTITY_ROLES_ASSIGN)
    ):
        raise PermissionDenied(
            "ROLE_PROTECTED",
            "Only an administrator may change this account.",
            metadata={"role": user.role},
        )


def require_another(administrators: Sequence[User], user: User) -> None:
    """Raises FailedPrecondition LAST_ADMINISTRATOR for the only administrator; `administrators` must be locked."""
    if [administrator.id for administrator in administrators] == [user.id]:
        raise FailedPrecondition(
            "LAST_ADMINISTRATOR",
            "This account is the last administrator; make somebody else an administrator first.",
        )
