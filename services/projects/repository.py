"""The only SQL of projects. Whatever is read is scoped by the caller's membership."""

from uuid import UUID

from sqlalchemy import Text, bindparam, exists, or_, select
from sqlalchemy.orm import selectinload

from chassis.core import NotFound
from chassis.data import Database, Listing, Query, Row, UnitOfWork
from services.projects.model import Project, ProjectMember

_IS_MEMBER = exists().where(
    ProjectMember.project_id == Project.id, ProjectMember.user_id == bindparam("caller_id")
)
_PATTERN = bindparam("pattern", type_=Text)

_GET = Query(select(*Project.__table__.columns).where(Project.id == bindparam("id"), _IS_MEMBER))
PROJECTS = Listing(
    select(*Project.__table__.columns).where(_IS_MEMBER),
    filters={
        "status": Project.status == bindparam("status"),
        "pattern": or_(Project.name.ilike(_PATTERN), Project.description.ilike(_PATTERN)),
    },
    order_by=(Project.created_at.desc(), Project.id.desc()),
)
MEMBERS = Listing(
    select(*ProjectMember.__table__.columns).where(ProjectMember.project_id == bindparam("project_id")),
    order_by=(ProjectMember.joined_at.asc(), ProjectMember.user_id.asc()),
)


async def get(database: Database, project_id: UUID, caller_id: UUID) -> Row:
    """A project that the caller is a member of. Raises NotFound PROJECT_NOT_FOUND."""
    row = await database.one(_GET, id=project_id, caller_id=caller_id)
    if row is None:
        raise _not_found()
    return row


async def lock(work: UnitOfWork, project_id: UUID, caller_id: UUID) -> Project:
    """A project that the caller is a member of, with its members, held until the unit of work ends.

    Every change of members holds the project, so that two at once cannot take its last owner.
    Raises NotFound PROJECT_NOT_FOUND.
    """
    held = (
        select(Project)
        .where(Project.id == project_id)
        .with_for_update()
        .options(selectinload(Project.members))
    )
    project: Project | None = (await work.execute(held)).scalar_one_or_none()
    # The members were read after the lock was there, so they are those of now.
    if project is None or not project.has_member(caller_id):
        raise _not_found()
    return project


def _not_found() -> NotFound:
    return NotFound("PROJECT_NOT_FOUND", "No such project.")
