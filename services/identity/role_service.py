"""The servicer of RoleService."""

from uuid import UUID

from protomesh.identity.v1.role_service_pb2 import AssignRoleRequest, ListRolesRequest, ListRolesResponse
from protomesh.identity.v1.user_pb2 import Account
from protomesh.type.v1.page_pb2 import PageMeta

from chassis.core import InvalidArgument
from chassis.data import Database, listings
from chassis.rpc import Call
from services.identity import administration, convert, repository, sessions, user_events
from services.identity.model import ADMIN, ROLES


class RoleService:
    """Roles, what they grant, and who has them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def ListRoles(self, request: ListRolesRequest, call: Call) -> ListRolesResponse:
        if request.cursor:
            raise InvalidArgument("CURSOR_INVALID", "The list of roles has no cursors; use `page`.")
        limit, offset = listings.window(request)
        meta = PageMeta(total=len(ROLES), page=request.page or 1, limit=limit)
        return ListRolesResponse(data=map(convert.role_message, ROLES[offset : offset + limit]), meta=meta)

    async def AssignRole(self, request: AssignRoleRequest, call: Call) -> Account:
        role = Account.Role.Name(request.role)
        async with self._database.unit_of_work() as work:
            administrators = await repository.lock_administrators(work)
            user = await repository.lock_user(work, UUID(request.id))
            call.match_etag(user.version, request.etag)
            if role != ADMIN:
                administration.require_another(administrators, user)
            if user.change(role=role):
                await user_events.save(work, user, user_events.updated)
                await sessions.end(work, user.id)
        return convert.account_message(user)
