"""The servicer of ProjectService."""

from typing import TYPE_CHECKING
from uuid import UUID

from google.protobuf.empty_pb2 import Empty
from protomesh.identity.v1.user_service_pb2 import BatchGetUsersRequest
from protomesh.projects.v1 import project_pb2
from protomesh.projects.v1.project_pb2 import ProjectMember
from protomesh.projects.v1.project_service_pb2 import (
    AddProjectMemberRequest,
    CreateProjectRequest,
    DeleteProjectRequest,
    GetProjectRequest,
    ListProjectMembersRequest,
    ListProjectMembersResponse,
    ListProjectsRequest,
    ListProjectsResponse,
    RemoveProjectMemberRequest,
    UpdateProjectMemberRequest,
    UpdateProjectRequest,
)

from chassis.core import NotFound
from chassis.data import Database, containing
from chassis.rpc import Call
from services.projects import convert, repository
from services.projects.model import Project, Role, Status

if TYPE_CHECKING:  # the stubs' type information knows this name, the module does not
    from protomesh.identity.v1.user_service_pb2_grpc import UserServiceAsyncStub


class ProjectService:
    """Projects and their members: members read, owners change, nobody else learns that there is anything."""

    def __init__(self, database: Database, users: "UserServiceAsyncStub") -> None:
        self._database = database
        self._users = users

    async def ListProjects(self, request: ListProjectsRequest, call: Call) -> ListProjectsResponse:
        page = await repository.PROJECTS.fetch(
            self._database,
            request,
            filters={
                "status": convert.status_name(request.status),
                "pattern": containing(request.search),
            },
            scope={"caller_id": UUID(call.caller.user_id)},
        )
        return ListProjectsResponse(data=map(convert.project_message, page.rows), meta=page.meta)

    async def CreateProject(self, request: CreateProjectRequest, call: Call) -> project_pb2.Project:
        project_id, creator_id = UUID(call.operation_id), UUID(call.caller.user_id)
        status = convert.status_name(request.status) or Status.ACTIVE
        project = Project.create(project_id, creator_id, request.name, request.description, Status(status))
        async with self._database.unit_of_work() as work:
            work.add(project)
            await work.session.flush()  # gives it its first version
            return work.answer(convert.project_message(project))

    async def GetProject(self, request: GetProjectRequest, call: Call) -> project_pb2.Project:
        project = await repository.get(self._database, UUID(request.id), UUID(call.caller.user_id))
        return convert.project_message(project)

    async def UpdateProject(self, request: UpdateProjectRequest, call: Call) -> project_pb2.Project:
        caller_id = UUID(call.caller.user_id)
        async with self._database.unit_of_work() as work:
            project = await repository.lock(work, UUID(request.id), caller_id)
            project.require_owner(caller_id)
            call.match_etag(project.version, request.etag)
            project.change(**convert.changes(request))
        return convert.project_message(project)

    async def DeleteProject(self, request: DeleteProjectRequest, call: Call) -> Empty:
        caller_id = UUID(call.caller.user_id)
        async with self._database.unit_of_work() as work:
            project = await repository.lock(work, UUID(request.id), caller_id)
            project.require_owner(caller_id)
            call.match_etag(project.version, request.etag)
            await work.session.delete(project)
        return Empty()

    async def ListProjectMembers(
        self, request: ListProjectMembersRequest, call: Call
    ) -> ListProjectMembersResponse:
        project = await repository.get(self._database, UUID(request.project_id), UUID(call.caller.user_id))
        page = await repository.MEMBERS.fetch(self._database, request, scope={"project_id": project.id})
        return ListProjectMembersResponse(data=map(convert.member_message, page.rows), meta=page.meta)

    async def AddProjectMember(self, request: AddProjectMemberRequest, call: Call) -> ProjectMember:
        caller_id, user_id = UUID(call.caller.user_id), UUID(request.user_id)
        role = Role(convert.role_name(request.role) or Role.MEMBER)
        is_user = await self._is_user(request.user_id)
        async with self._database.unit_of_work() as work:
            project = await repository.lock(work, UUID(request.project_id), caller_id)
            project.require_owner(caller_id)
            if not is_user:  # Said only now: who may not add members learns nothing about users.
                raise NotFound("MEMBER_USER_NOT_FOUND", "There is no such user.")
            member = project.add(user_id, role)
        return convert.member_message(member)

    async def UpdateProjectMember(self, request: UpdateProjectMemberRequest, call: Call) -> ProjectMember:
        caller_id = UUID(call.caller.user_id)
        async with self._database.unit_of_work() as work:
            project = await repository.lock(work, UUID(request.project_id), caller_id)
            project.require_owner(caller_id)
            member = project.give_role(UUID(request.user_id), Role(convert.role_name(request.role)))
        return convert.member_message(member)

    async def RemoveProjectMember(self, request: RemoveProjectMemberRequest, call: Call) -> Empty:
        caller_id, user_id = UUID(call.caller.user_id), UUID(request.user_id)
        async with self._database.unit_of_work() as work:
            project = await repository.lock(work, UUID(request.project_id), caller_id)
            if user_id != caller_id:
                project.require_owner(caller_id)
            project.remove(user_id)
        return Empty()

    async def _is_user(self, user_id: str) -> bool:
        users = (await self._users.BatchGetUsers(BatchGetUsersRequest(user_ids=[user_id]))).users
        return bool(users) and not users[0].disabled
