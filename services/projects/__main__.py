"""Starts projects."""

from protomesh.identity.v1.user_service_pb2_grpc import UserServiceStub

from chassis.service import Service, run
from services.projects.project_service import ProjectService


async def compose(service: Service) -> None:
    users = UserServiceStub(service.mesh)
    service.serve("protomesh.projects.v1.ProjectService", ProjectService(service.database, users))


if __name__ == "__main__":
    run("projects", compose)
