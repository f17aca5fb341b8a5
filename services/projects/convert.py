"""Rows and entities ↔ messages."""

from datetime import datetime
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from protomesh.projects.v1.project_pb2 import Project, ProjectMember
from protomesh.projects.v1.project_service_pb2 import UpdateProjectRequest


def project_message(project: Any) -> Project:
    """A project, from a row or an entity."""
    return Project(
        id=str(project.id),
        name=project.name,
        description=project.description,
        status=Project.Status.Value(project.status),
        owner_id=str(project.owner_id),
        created_at=_timestamp(project.created_at),
        updated_at=_timestamp(project.updated_at),
    )


def member_message(member: Any) -> ProjectMember:
    """A member, from a row or an entity."""
    return ProjectMember(
        project_id=str(member.project_id),
        user_id=str(member.user_id),
        role=ProjectMember.Role.Value(member.role),
        joined_at=_timestamp(member.joined_at),
    )


def status_name(status: Project.Status.ValueType) -> str:
    """The status as it is stored; "" when none was sent."""
    return Project.Status.Name(status) if status else ""


def role_name(role: ProjectMember.Role.ValueType) -> str:
    """The role as it is stored; "" when none was sent."""
    return ProjectMember.Role.Name(role) if role else ""


def pattern(text: str) -> str:
    """The LIKE pattern of whatever contains the text, no character of which is a wildcard; "" for no text."""
    escaped = text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return f"%{escaped}%" if text else ""


def changes(request: UpdateProjectRequest) -> dict[str, str]:
    """The fields that were sent, and no others."""
    sent = {field: getattr(request, field) for field in ("name", "description") if request.HasField(field)}
    if request.HasField("status"):
        sent["status"] = status_name(request.status)
    return sent


def _timestamp(moment: datetime) -> Timestamp:
    timestamp = Timestamp()
    timestamp.FromDatetime(moment)
    return timestamp
