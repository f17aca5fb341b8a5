"""The only SQL of projects. Every read and lock is scoped by the caller's membership."""

from uuid import UUID

from sqlalchemy import ColumnElement, Text, bindparam, exists, or_, select

from chassis.core import AlreadyExists, FailedPrecondition, NotFound, PermissionDenied, errors
from chassis.data import CALLER, Listing, Refusal, Refusals, Scoped, UnitOfWork
from services.projects.model import Project, ProjectMember, Role

_MISSING = ("PROJECT_NOT_FOUND", "No such project.")
_PATTERN = bindparam("pattern", type_=Text)


def _has_caller(*conditions: ColumnElement[bool]) -> ColumnElement[bool]:
    mine = (ProjectMember.project_id == Project.id, ProjectMember.user_id == CALLER)
    return exists().where(*mine, *conditions)


PROJECTS = Scoped(
    Project,
    _has_caller(),
    missing=_MISSING,
    filters={
        "status": Project.status == bindparam("status"),
        "pattern": or_(Project.name.ilike(_PATTERN), Project.description.ilike(_PATTERN)),
    },
)
_OWN_PROJECTS = Scoped(Project, _has_caller(ProjectMember.role == Role.OWNER), missing=_MISSING)
MEMBERS = Listing(
    select(*ProjectMember.__table__.columns).where(ProjectMember.project_id == bindparam("project_id")),
    order_by=(ProjectMember.joined_at.asc(), ProjectMember.user_id.asc()),
)
_OTHER_OWNERS = (
    select(ProjectMember.user_id)
    .where(
        ProjectMember.project_id == bindparam("project_id"),
        ProjectMember.role == Role.OWNER,
        ProjectMember.user_id != bindparam("leaving_id"),
    )
    .order_by(ProjectMember.joined_at, ProjectMember.user_id)
    .limit(1)
)

REFUSALS = Refusals(
    {
        "project_members_pkey": Refusal(
            AlreadyExists, "MEMBER_EXISTS", "The user is already a member of the project."
        )
    }
)


async def lock_as_owner(work: UnitOfWork, project_id: str, caller_id: UUID) -> Project:
    """Returns a project that the caller owns, locked until the unit of work ends: every change of members locks it.

    A caller who is not an owner is refused without waiting. Raises NotFound PROJECT_NOT_FOUND, PermissionDenied
    PROJECT_OWNER_REQUIRED.
    """
    project = await _OWN_PROJECTS.find_and_lock(work, project_id, caller_id)
    # Read after the lock is held, because a caller may have lost ownership while waiting for it.
    membership = await work.get(ProjectMember, (UUID(project_id), caller_id))
    if membership is None:
        raise PROJECTS.missing()
    if membership.role != Role.OWNER:
        raise PermissionDenied("PROJECT_OWNER_REQUIRED", "Only owners of the project may do this.")
    if project is None:  # the caller became an owner a moment ago
        raise errors.conflict()
    return project


async def lock_as_member(work: UnitOfWork, project_id: str, caller_id: UUID) -> Project:
    """Returns a project of the caller, locked until the unit of work ends. Raises NotFound PROJECT_NOT_FOUND."""
    project = await PROJECTS.lock(work, project_id, caller_id)
    if await work.get(ProjectMember, (project.id, caller_id)) is None:
        raise PROJECTS.missing()
    return project


async def member(work: UnitOfWork, project: Project, user_id: str) -> ProjectMember:
    """Returns a member of a locked project. Raises NotFound MEMBER_NOT_FOUND."""
    found = await work.get(ProjectMember, (project.id, UUID(user_id)))
    if found is None:
        raise NotFound("MEMBER_NOT_FOUND", "The user is not a member of the project.")
    return found


async def owner_after(work: UnitOfWork, project: Project, leaving: ProjectMember) -> UUID:
    """Returns the owner of a locked project once `leaving` is no longer one: the longest-standing other owner follows.

    Raises FailedPrecondition LAST_OWNER.
    """
    if leaving.role != Role.OWNER:
        return project.owner_id
    found = await work.execute(_OTHER_OWNERS, {"project_id": project.id, "leaving_id": leaving.user_id})
    successor: UUID | None = found.scalar_one_or_none()
    if successor is None:
        raise FailedPrecondition(
            "LAST_OWNER", "A project needs at least one owner; make another member an owner first."
        )
    return successor if project.owner_id == leaving.user_id else project.owner_id
