"""The only SQL of projects. Whatever is read or held is scoped by the caller's membership."""

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
            AlreadyExists, "MEMBER_EXISTS", "The user is a member of the project already."
        )
    }
)


async def lock_as_owner(work: UnitOfWork, project_id: str, caller_id: UUID) -> Project:
    """A project that the caller owns, held until the unit of work ends: every change of members holds the project.

    Whoever owns it not is refused without waiting for it. Raises NotFound PROJECT_NOT_FOUND, PermissionDenied
    PROJECT_OWNER_REQUIRED.
    """
    project = await _OWN_PROJECTS.find_and_lock(work, project_id, caller_id)
    # Asked after the lock was there, for which an owner may have waited until they were none.
    membership = await work.get(ProjectMember, (UUID(project_id), caller_id))
    if membership is None:
        raise PROJECTS.missing()
    if membership.role != Role.OWNER:
        raise PermissionDenied("PROJECT_OWNER_REQUIRED", "Only owners of the project may do this.")
    if project is None:  # made an owner a moment ago
        raise errors.conflict()
    return project


async def lock_as_member(work: UnitOfWork, project_id: str, caller_id: UUID) -> Project:
    """A project that the caller is a member of, held until the unit of work ends. Raises NotFound PROJECT_NOT_FOUND."""
    project = await PROJECTS.lock(work, project_id, caller_id)
    if await work.get(ProjectMember, (project.id, caller_id)) is None:
        raise PROJECTS.missing()
    return project


async def member(work: UnitOfWork, project: Project, user_id: str) -> ProjectMember:
    """A member of a project that is held. Raises NotFound MEMBER_NOT_FOUND."""
    found = await work.get(ProjectMember, (project.id, UUID(user_id)))
    if found is None:
        raise NotFound("MEMBER_NOT_FOUND", "The project has no such member.")
    return found


async def owner_after(work: UnitOfWork, project: Project, leaving: ProjectMember) -> UUID:
    """Who answers for a held project once a member is no owner any more: the longest-standing other owner follows.

    Raises FailedPrecondition LAST_OWNER.
    """
    if leaving.role != Role.OWNER:
        return project.owner_id
    found = await work.execute(_OTHER_OWNERS, {"project_id": project.id, "leaving_id": leaving.user_id})
    successor: UUID | None = found.scalar_one_or_none()
    if successor is None:
        raise FailedPrecondition("LAST_OWNER", "A project keeps at least one owner.")
    return successor if project.owner_id == leaving.user_id else project.owner_id
