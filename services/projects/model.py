"""Projects, their members, and the rules between them: a project always has an owner."""

import enum
from datetime import UTC, datetime
from typing import Any, ClassVar
from uuid import UUID

from sqlalchemy import DateTime, ForeignKey
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from chassis.core import AlreadyExists, FailedPrecondition, NotFound, PermissionDenied
from chassis.data import Versioned, metadata


class Model(DeclarativeBase):
    metadata = metadata()
    type_annotation_map: ClassVar[dict[Any, Any]] = {datetime: DateTime(timezone=True)}


class Status(enum.StrEnum):
    """Where a project stands; the contract's `Project.Status` says what each means."""

    PLANNED = "planned"
    ACTIVE = "active"
    ON_HOLD = "on_hold"
    COMPLETED = "completed"
    ARCHIVED = "archived"


class Role(enum.StrEnum):
    """What a member may do."""

    OWNER = "owner"
    MEMBER = "member"


class ProjectMember(Model):
    """Somebody who takes part in a project."""

    __tablename__ = "project_members"

    project_id: Mapped[UUID] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"), primary_key=True)
    user_id: Mapped[UUID] = mapped_column(primary_key=True)
    role: Mapped[str]
    joined_at: Mapped[datetime]


class Project(Versioned, Model):
    """A project with its members. Its version counts its changes and is its ETag."""

    __tablename__ = "projects"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    name: Mapped[str]
    description: Mapped[str]
    status: Mapped[str]
    owner_id: Mapped[UUID]
    version: Mapped[int] = mapped_column()
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    members: Mapped[list[ProjectMember]] = relationship(
        lazy="raise", cascade="all, delete-orphan", passive_deletes=True, order_by=ProjectMember.joined_at
    )

    __mapper_args__ = {"version_id_col": version}  # noqa: RUF012 (SQLAlchemy declares the name)

    @classmethod
    def create(cls, id: UUID, creator_id: UUID, name: str, description: str, status: Status) -> "Project":
        """A new project, whose creator is its first owner."""
        now = datetime.now(UTC)
        project = cls(id=id, name=name, description=description, status=status.value, owner_id=creator_id)
        project.created_at = project.updated_at = now
        project.members = [ProjectMember(user_id=creator_id, role=Role.OWNER.value, joined_at=now)]
        return project

    def has_member(self, user_id: UUID) -> bool:
        return any(member.user_id == user_id for member in self.members)

    def require_owner(self, user_id: UUID) -> None:
        """Lets an owner pass. Raises PermissionDenied PROJECT_OWNER_REQUIRED."""
        if self.member(user_id).role != Role.OWNER:
            raise PermissionDenied("PROJECT_OWNER_REQUIRED", "Only owners of the project may do this.")

    def member(self, user_id: UUID) -> ProjectMember:
        """The member. Raises NotFound MEMBER_NOT_FOUND."""
        for member in self.members:
            if member.user_id == user_id:
                return member
        raise NotFound("MEMBER_NOT_FOUND", "The project has no such member.")

    def add(self, user_id: UUID, role: Role) -> ProjectMember:
        """Makes a user a member. Raises AlreadyExists MEMBER_EXISTS."""
        if self.has_member(user_id):
            raise AlreadyExists("MEMBER_EXISTS", "The user is a member of the project already.")
        member = ProjectMember(user_id=user_id, role=role.value, joined_at=datetime.now(UTC))
        self.members.append(member)
        return member

    def give_role(self, user_id: UUID, role: Role) -> ProjectMember:
        """Changes what a member may do. Raises NotFound MEMBER_NOT_FOUND, FailedPrecondition LAST_OWNER."""
        member = self.member(user_id)
        member.role = role.value
        self._keep_an_owner()
        return member

    def remove(self, user_id: UUID) -> None:
        """Ends a membership. Raises NotFound MEMBER_NOT_FOUND, FailedPrecondition LAST_OWNER."""
        self.members.remove(self.member(user_id))
        self._keep_an_owner()

    def _keep_an_owner(self) -> None:
        """`owner_id` names an owner: when that one steps down, the longest-standing other owner follows."""
        owners = [member.user_id for member in self.members if member.role == Role.OWNER]
        if not owners:
            raise FailedPrecondition("LAST_OWNER", "A project keeps at least one owner.")
        if self.owner_id not in owners:
            self.owner_id = owners[0]
