"""Starts projects."""

from protomesh.identity.v1.user_service_pb2_grpc import UserServiceStub

from chassis.service import Service, run
from services.projects.people import People
from services.projects.project_service import ProjectService


async def compose(service: Service) -> None:
    people = People(UserServiceStub(service.mesh))
    service.serve("protomesh.projects.v1.ProjectService", ProjectService(service.database, people))


if __name__ == "__main__":
    run("projects", compose)
