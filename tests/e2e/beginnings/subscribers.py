"""What projects does about notes."""

from protomesh.notes.v1.notes_events_pb2 import NoteCreated

from chassis.data import UnitOfWork
from chassis.events import Envelope
from services.projects.model import Project, ProjectMember, Role


async def start_project(event: NoteCreated, _: Envelope, work: UnitOfWork) -> None:
    """Starts a project for each note."""
    values = Project.values(event.note, without=("created_at", "updated_at", "etag"))
    work.add(project := Project.new(values.pop("id"), **values, status="planned"))
    work.add(ProjectMember.new(project.id, project.owner_id, Role.OWNER))
