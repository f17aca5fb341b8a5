"""The servicer of ProjectService."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from protomesh.projects.v1 import project_pb2
from protomesh.projects.v1.project_pb2 import ProjectMember as ProjectMemberMessage
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
from protomesh.projects.v1.projects_events_pb2 import (
    ProjectCreated,
    ProjectDeleted,
    ProjectMemberAdded,
    ProjectMemberRemoved,
    ProjectMemberUpdated,
    ProjectUpdated,
)

from chassis.contract.mapping import Mapper, values
from chassis.core import NotFound, timestamp
from chassis.data import Database, UnitOfWork, containing
from chassis.rpc import Call
from services.projects import repository
from services.projects.model import Project, ProjectMember, Role
from services.projects.people import People

_project = Mapper(project_pb2.Project, Project)
_member = Mapper(ProjectMemberMessage, ProjectMember, without=("user",))


class ProjectService:
    """Projects and their members: members read, owners change, and for everybody else a project does not exist."""

    def __init__(self, database: Database, people: People) -> None:
        self._database = database
        self._people = people

    async def ListProjects(self, request: ListProjectsRequest, call: Call) -> ListProjectsResponse:
        filters = {"status": values(request).get("status"), "pattern": containing(request.search)}
        page = await repository.PROJECTS.fetch(self._database, request, call.caller.id, filters)
        return ListProjectsResponse(data=map(_project, page.rows), meta=page.meta)

    async def CreateProject(self, request: CreateProjectRequest, call: Call) -> project_pb2.Project:
        given = {"status": "active"} | Project.values(request)
        project = Project.new(call.operation_id, owner_id=call.caller.id, **given)
        async with self._database.unit_of_work() as work:
            await work.save(project)
            work.add(ProjectMember.new(project.id, call.caller.id, Role.OWNER))
            message = _project(project)
            work.publish(ProjectCreated(project_id=message.id, project=message), version=project.version)
            return work.answer(message)

    async def GetProject(self, request: GetProjectRequest, call: Call) -> project_pb2.Project:
        return _project(await repository.PROJECTS.get(self._database, request.id, call.caller.id))

    async def UpdateProject(self, request: UpdateProjectRequest, call: Call) -> project_pb2.Project:
        async with self._database.unit_of_work() as work:
            project = await repository.lock_as_owner(work, request.id, call.caller.id)
            call.match_etag(project.version, request.etag)
            return await _changed(work, project, **Project.sent(request))

    async def DeleteProject(self, request: DeleteProjectRequest, call: Call) -> Empty:
        async with self._database.unit_of_work() as work:
            project = await repository.lock_as_owner(work, request.id, call.caller.id)
            call.match_etag(project.version, request.etag)
            await work.delete(project)
            message = _project(project)
            event = ProjectDeleted(project_id=message.id, project=message, deleted_at=_now())
            work.publish(event, version=project.version + 1)
        return Empty()

    async def ListProjectMembers(
        self, request: ListProjectMembersRequest, call: Call
    ) -> ListProjectMembersResponse:
        project = await repository.PROJECTS.get(self._database, request.project_id, call.caller.id)
        page = await repository.MEMBERS.fetch(self._database, request, scope={"project_id": project.id})
        profiles = await self._people.profiles([str(row.user_id) for row in page.rows])
        members = (_member(row, user=profiles.get(str(row.user_id))) for row in page.rows)
        return ListProjectMembersResponse(data=members, meta=page.meta)

    async def AddProjectMember(self, request: AddProjectMemberRequest, call: Call) -> ProjectMemberMessage:
        is_user = await self._people.includes(request.user_id)
        async with self._database.unit_of_work() as work:
            project = await repository.lock_as_owner(work, request.project_id, call.caller.id)
            if (
                not is_user
            ):  # Raised only now, so that callers who may not add members learn nothing about users.
                raise NotFound("MEMBER_USER_NOT_FOUND", "The user does not exist.")
            role = values(request).get("role", Role.MEMBER)
            member = ProjectMember.new(project.id, UUID(request.user_id), role)
            with repository.REFUSALS.told():
                await work.save(member)
            message = _member(member)
            event = ProjectMemberAdded(project_id=message.project_id, member=message)
            await _members_changed(work, project, event)
        return message

    async def UpdateProjectMember(
        self, request: UpdateProjectMemberRequest, call: Call
    ) -> ProjectMemberMessage:
        async with self._database.unit_of_work() as work:
            project = await repository.lock_as_owner(work, request.project_id, call.caller.id)
            member = await repository.member(work, project, request.user_id)
            role = values(request)["role"]
            if role != member.role:
                owner_id = await repository.owner_after(work, project, member)
                member.role = role
                event = ProjectMemberUpdated(project_id=str(project.id), member=_member(member))
                await _members_changed(work, project, event)
                await _changed(work, project, owner_id=owner_id)
        return _member(member)

    async def RemoveProjectMember(self, request: RemoveProjectMemberRequest, call: Call) -> Empty:
        leaves = UUID(request.user_id) == call.caller.id
        lock = repository.lock_as_member if leaves else repository.lock_as_owner
        async with self._database.unit_of_work() as work:
            project = await lock(work, request.project_id, call.caller.id)
            member = await repository.member(work, project, request.user_id)
            owner_id = await repository.owner_after(work, project, member)
            await work.delete(member)
            event = ProjectMemberRemoved(
                project_id=str(project.id), member=_member(member), removed_at=_now()
            )
            await _members_changed(work, project, event)
            await _changed(work, project, owner_id=owner_id)
        return Empty()


async def _changed(work: UnitOfWork, project: Project, **values: Any) -> project_pb2.Project:
    """Changes a locked project, and publishes an event if anything differs."""
    differs = project.change(**values)
    await work.save(project)
    message = _project(project)
    if differs:
        work.publish(ProjectUpdated(project_id=message.id, project=message), version=project.version)
    return message


async def _members_changed(work: UnitOfWork, project: Project, event: Message) -> None:
    """Publishes a change of members. Increases the project's version, which orders its events."""
    project.touch()
    await work.save(project)
    work.publish(event, version=project.version)


def _now() -> Timestamp:
    return timestamp(datetime.now(UTC))
