"""Rows and entities ↔ messages."""

from typing import Any

from protomesh.projects.v1.project_pb2 import Project, ProjectMember
from protomesh.projects.v1.project_service_pb2 import UpdateProjectRequest

from chassis.core import timestamp


def project_message(project: Any) -> Project:
    """A project, from a row or an entity."""
    return Project(
        id=str(project.id),
        name=project.name,
        description=project.description,
        status=Project.Status.Value(project.status),
        owner_id=str(project.owner_id),
        created_at=timestamp(project.created_at),
        updated_at=timestamp(project.updated_at),
        etag=str(project.version),
    )


def member_message(member: Any) -> ProjectMember:
    """A member, from a row or an entity."""
    return ProjectMember(
        project_id=str(member.project_id),
        user_id=str(member.user_id),
        role=ProjectMember.Role.Value(member.role),
        joined_at=timestamp(member.joined_at),
    )


def status_name(status: Project.Status.ValueType) -> str:
    """The status as it is stored; "" when none was sent."""
    return Project.Status.Name(status) if status else ""


def role_name(role: ProjectMember.Role.ValueType) -> str:
    """The role as it is stored; "" when none was sent."""
    return ProjectMember.Role.Name(role) if role else ""


def changes(request: UpdateProjectRequest) -> dict[str, str]:
    """The fields that were sent, and no others."""
    sent = {field: getattr(request, field) for field in ("name", "description") if request.HasField(field)}
    if request.HasField("status"):
        sent["status"] = status_name(request.status)
    return sent
