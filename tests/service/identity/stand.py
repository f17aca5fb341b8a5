"""Identity by itself, on a database of its own: its servicers over mTLS, as the edge and other services call them."""

import asyncio
import pathlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
from protomesh.identity.v1.auth_service_pb2 import LoginUserRequest, RegisteredUser, RegisterUserRequest
from protomesh.identity.v1.auth_service_pb2_grpc import AuthServiceStub
from protomesh.identity.v1.user_service_pb2_grpc import UserServiceStub

from chassis.core import Settings
from chassis.rpc import MeshChannel
from chassis.service import Service
from services.identity.__main__ import compose
from services.identity.settings import IdentitySettings
from tests import certificates
from tests.service.identity.accounts import PASSWORD, new_account

WORKLOADS = ("identity", "edge", "projects", "catalog", "developer", "operator")
ADMIN_EMAIL = "admin@example.org"

Metadata = tuple[tuple[str, str], ...]


class Identity:
    """A running identity. `auth` and `users` are stubs with the edge's certificate."""

    def __init__(self, service: Service, directory: pathlib.Path, port: int) -> None:
        self.service = service
        self._directory = directory
        self._target = f"ipv4:127.0.0.1:{port}"
        self._channels: dict[str, MeshChannel] = {}
        self.auth = AuthServiceStub(self.channel("edge"))
        self.users = UserServiceStub(self.channel("edge"))

    def channel(self, workload: str) -> grpc.aio.Channel:
        """A channel with that workload's certificate."""
        if workload not in self._channels:
            settings = Settings(
                service=workload, tls_directory=self._directory, targets={"identity": self._target}
            )
            self._channels[workload] = MeshChannel(settings)
        return self._channels[workload]

    async def register(self, address: str = "198.51.100.1", **fields: str) -> RegisteredUser:
        """A new customer."""
        request = RegisterUserRequest(**new_account(**fields))
        registered: RegisteredUser = await self.auth.RegisterUser(request, metadata=came_from(address))
        return registered

    async def sign_in(self, email: str, address: str = "198.51.100.1") -> Metadata:
        """The metadata of calls in a new session of a customer."""
        request = LoginUserRequest(email=email, password=PASSWORD)
        grant = await self.auth.LoginUser(request, metadata=came_from(address))
        return (("authorization", f"Bearer {grant.access_token}"),)

    async def close(self) -> None:
        await asyncio.gather(*(channel.close() for channel in self._channels.values()))


def came_from(address: str) -> Metadata:
    """The metadata by which the edge names a client's address."""
    return (("x-forwarded-for", address),)


@asynccontextmanager
async def running_identity(
    database_url: str, directory: pathlib.Path, **settings: Any
) -> AsyncIterator[Identity]:
    """Identity on a migrated database, until the block ends."""
    certificates.issue(directory, *WORKLOADS)
    values: dict[str, Any] = {
        "service": "identity",
        "port": 0,
        "database_url": database_url,
        "tls_directory": directory,
        "key_encryption_secret": "s" * 32,
        "bootstrap_admin_email": ADMIN_EMAIL,
        "bootstrap_admin_password": PASSWORD,
        "drain_wait_seconds": 0,
    }
    service = Service(IdentitySettings(**(values | settings)))
    await compose(service)
    stop, port = asyncio.Event(), asyncio.get_running_loop().create_future()
    running = asyncio.create_task(service.run(stop, port.set_result))
    await asyncio.wait([running, port], return_when=asyncio.FIRST_COMPLETED)
    if running.done():
        running.result()
    identity = Identity(service, directory, await port)
    try:
        yield identity
    finally:
        await identity.close()
        stop.set()
        await running
