"""Projects and their members: a project always has an owner."""

import enum
from datetime import UTC, datetime
from typing import Self
from uuid import UUID

from sqlalchemy import ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from chassis.data import Model, Resource


class Role(enum.StrEnum):
    """What a member may do."""

    OWNER = "owner"
    MEMBER = "member"


class Project(Resource):
    """A project. Its version also counts changes of members: they are part of it, and share one order of events."""

    __tablename__ = "projects"

    name: Mapped[str]
    description: Mapped[str]
    status: Mapped[str]
    owner_id: Mapped[UUID]


class ProjectMember(Model):
    """A member of a project."""

    __tablename__ = "project_members"

    project_id: Mapped[UUID] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"), primary_key=True)
    user_id: Mapped[UUID] = mapped_column(primary_key=True)
    role: Mapped[str]
    joined_at: Mapped[datetime]

    @classmethod
    def new(cls, project_id: UUID, user_id: UUID, role: str) -> Self:
        """Returns a member who joins now."""
        return cls(project_id=project_id, user_id=user_id, role=role, joined_at=datetime.now(UTC))
