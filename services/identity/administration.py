"""What even those who administer users may not do."""

from collections.abc import Sequence
from uuid import UUID

from protomesh.permissions import IDENTITY_ROLES_ASSIGN

from chassis.core import FailedPrecondition, PermissionDenied
from chassis.rpc import Caller
from services.identity.model import PROTECTED_ROLES, User


def require_right_over(user: User, caller: Caller) -> None:
    """Raises PermissionDenied ROLE_PROTECTED: power over the powerful is for those who give it."""
    if (
        user.role in PROTECTED_ROLES
        and user.id != UUID(caller.user_id)
        and not caller.may(IDENTITY_ROLES_ASSIGN)
    ):
        raise PermissionDenied(
            "ROLE_PROTECTED",
            "Only an administrator may do this to this account.",
            metadata={"role": user.role},
        )


def require_another(administrators: Sequence[User], user: User) -> None:
    """Raises FailedPrecondition LAST_ADMINISTRATOR when the user is the only one; all must be locked."""
    if [administrator.id for administrator in administrators] == [user.id]:
        raise FailedPrecondition("LAST_ADMINISTRATOR", "Nobody else could administer the mesh then.")
