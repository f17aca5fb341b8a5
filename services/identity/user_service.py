"""The servicer of UserService."""

from collections.abc import Iterable, Sequence
from uuid import UUID

from protomesh.identity.v1.user_pb2 import Account, CurrentUser
from protomesh.identity.v1.user_pb2 import User as UserMessage
from protomesh.identity.v1.user_service_pb2 import (
    BatchGetPublicProfilesRequest,
    BatchGetPublicProfilesResponse,
    BatchGetUsersRequest,
    BatchGetUsersResponse,
    DisableUserRequest,
    EnableUserRequest,
    GetMeRequest,
    GetUserRequest,
    ListUsersRequest,
    ListUsersResponse,
    UpdateUserRequest,
)

from chassis.data import Database, Query, Row, containing
from chassis.rpc import Call
from services.identity import administration, convert, repository, sessions, user_events
from services.identity.model import normal_email, now
from services.identity.passwords import Passwords, password_incorrect


class UserService:
    """Users and their profiles."""

    def __init__(self, database: Database, passwords: Passwords) -> None:
        self._database = database
        self._passwords = passwords

    async def GetMe(self, request: GetMeRequest, call: Call) -> CurrentUser:
        row = await self._database.one(repository.ACCOUNT, id=UUID(call.caller.user_id))
        if row is None:
            raise repository.user_not_found()
        return convert.current_user(row)

    async def GetUser(self, request: GetUserRequest, call: Call) -> UserMessage:
        caller_id = UUID(call.caller.user_id)
        row = await self._database.one(
            repository.PROFILE, id=UUID(request.id), caller_id=caller_id, sees_all=call.privileged
        )
        if row is None:
            raise repository.user_not_found()
        return convert.user_message(row)

    async def UpdateUser(self, request: UpdateUserRequest, call: Call) -> UserMessage:
        user_id = UUID(request.id)
        if user_id != UUID(call.caller.user_id) and not call.privileged:
            raise repository.user_not_found()
        changes = _changes(request)
        await self._confirm_email(changes.get("email"), request, call)
        with repository.UNIQUE_NAMES.told():
            async with self._database.unit_of_work() as work:
                user = await repository.lock_user(work, user_id)
                administration.require_right_over(user, call.caller)
                call.match_etag(user.version, request.etag)
                if user.change(**changes):
                    await user_events.save(work, user, user_events.updated)
        return convert.user_message(user)

    async def _confirm_email(self, email: str | None, request: UpdateUserRequest, call: Call) -> None:
        """Makes sure that only the user changes their email address, and only with the password."""
        if email is None:
            return
        account = await self._database.one(repository.CREDENTIALS, id=UUID(request.id))
        if account is None or account.email == email:
            return
        if UUID(request.id) != UUID(call.caller.user_id) or not request.current_password:
            raise password_incorrect()
        await self._passwords.confirm(request.current_password, account, address=call.address)

    async def ListUsers(self, request: ListUsersRequest, call: Call) -> ListUsersResponse:
        filters = {}
        if request.role:
            filters["role"] = Account.Role.Name(request.role)
        if request.search:
            filters["search"] = containing(request.search)
        page = await repository.ACCOUNTS.fetch(self._database, request, filters=filters)
        return ListUsersResponse(data=map(convert.account_message, page.rows), meta=page.meta)

    async def DisableUser(self, request: DisableUserRequest, call: Call) -> Account:
        async with self._database.unit_of_work() as work:
            administrators = await repository.lock_administrators(work)
            user = await repository.lock_user(work, UUID(request.id))
            administration.require_right_over(user, call.caller)
            administration.require_another(administrators, user)
            if user.change(disabled_at=user.disabled_at or now()):
                await user_events.save(work, user, user_events.disabled)
            await sessions.end(work, user.id)
        return convert.account_message(user)

    async def EnableUser(self, request: EnableUserRequest, call: Call) -> Account:
        async with self._database.unit_of_work() as work:
            user = await repository.lock_user(work, UUID(request.id))
            administration.require_right_over(user, call.caller)
            if user.change(disabled_at=None):
                await user_events.save(work, user, user_events.enabled)
        return convert.account_message(user)

    async def BatchGetUsers(self, request: BatchGetUsersRequest, call: Call) -> BatchGetUsersResponse:
        rows = await self._in_order(repository.REFERENCES, request.user_ids)
        return BatchGetUsersResponse(users=map(convert.user_reference, rows))

    async def BatchGetPublicProfiles(
        self, request: BatchGetPublicProfilesRequest, call: Call
    ) -> BatchGetPublicProfilesResponse:
        rows = await self._in_order(repository.PUBLIC_PROFILES, request.user_ids)
        return BatchGetPublicProfilesResponse(profiles=map(convert.public_profile, rows))

    async def _in_order(self, query: Query, user_ids: Iterable[str]) -> Sequence[Row]:
        """The rows of users that exist, in the order of the ids."""
        place = {UUID(text): number for number, text in enumerate(user_ids)}
        rows = await self._database.all(query, ids=list(place))
        return sorted(rows, key=lambda row: place[row.id])


def _changes(request: UpdateUserRequest) -> dict[str, str]:
    # Only optional fields know whether they were sent.
    changes = {field.name: value for field, value in request.ListFields() if field.has_presence}
    if "email" in changes:
        changes["email"] = normal_email(changes["email"])
    return changes
