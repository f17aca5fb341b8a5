"""The client: one channel to the edge, and every service that the edge exposes, by domain."""

from types import TracebackType
from typing import Self

import grpc
from protomesh.catalog.v1.category_service_pb2_grpc import CategoryServiceStub
from protomesh.catalog.v1.inventory_service_pb2_grpc import InventoryServiceStub
from protomesh.catalog.v1.product_service_pb2_grpc import ProductServiceStub
from protomesh.identity.v1.auth_service_pb2 import TokenGrant
from protomesh.identity.v1.auth_service_pb2_grpc import AuthServiceStub
from protomesh.identity.v1.role_service_pb2_grpc import RoleServiceStub
from protomesh.identity.v1.user_service_pb2_grpc import UserServiceStub
from protomesh.observer.v1.observer_service_pb2_grpc import ObserverServiceStub
from protomesh.ordering.v1.order_service_pb2_grpc import OrderServiceStub
from protomesh.projects.v1.project_service_pb2_grpc import ProjectServiceStub

from protomesh_sdk import endpoint
from protomesh_sdk.interceptors import Credentials, Errors, IdempotencyKeys, Timeouts
from protomesh_sdk.session import Session


class Identity:
    """Signing up and in, users, roles."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.auth = AuthServiceStub(channel)
        self.users = UserServiceStub(channel)
        self.roles = RoleServiceStub(channel)


class Catalog:
    """Products, their categories and their stock."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.products = ProductServiceStub(channel)
        self.categories = CategoryServiceStub(channel)
        self.inventory = InventoryServiceStub(channel)


class Mesh:
    """A connection to the mesh's edge, safe to share between threads.

    Every RPC of a stub takes its request message and returns its response, or raises a MeshError:
    `mesh.catalog.products.GetProduct(GetProductRequest(id=…), timeout=1.5)`. `timeout` defaults to the contract's.
    """

    def __init__(self, url: str, *, root_certificates: bytes | None = None) -> None:
        """Opens a channel to `url`, such as `https://api.example.com` or `http://127.0.0.1:8080`.

        `root_certificates` (PEM) replaces the system's, for https. Nothing is sent before the first call.
        """
        self._channel = _channel(url, root_certificates)
        plain = grpc.intercept_channel(self._channel, Timeouts(), Errors())
        self.session = Session(AuthServiceStub(plain))
        channel = grpc.intercept_channel(plain, IdempotencyKeys(), Credentials(self.session.access_token))
        self.identity = Identity(channel)
        self.catalog = Catalog(channel)
        self.orders = OrderServiceStub(channel)
        self.projects = ProjectServiceStub(channel)
        self.observer = ObserverServiceStub(channel)

    def login(self, email: str, password: str) -> None:
        """Signs in for all calls that follow. Raises Unauthenticated `LOGIN_FAILED`."""
        self.session.login(email, password)

    def use(self, grant: TokenGrant) -> None:
        """Uses tokens that were issued elsewhere for all calls that follow."""
        self.session.use(grant)

    def logout(self) -> None:
        """Signs out; the tokens are refused everywhere within seconds."""
        self.session.logout()

    def close(self) -> None:
        """Closes the channel; calls that still run are cancelled."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _channel(url: str, root_certificates: bytes | None) -> grpc.Channel:
    edge = endpoint.at(url, root_certificates)
    if edge.credentials is None:
        return grpc.insecure_channel(edge.target, endpoint.options())
    return grpc.secure_channel(edge.target, edge.credentials, endpoint.options())
