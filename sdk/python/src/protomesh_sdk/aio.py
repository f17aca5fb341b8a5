"""The client for asyncio: await calls, and read streams with `async for`."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import Any, Self

from grpc import aio
from protomesh.catalog.v1.category_service_pb2_grpc import CategoryServiceStub
from protomesh.catalog.v1.inventory_service_pb2_grpc import InventoryServiceStub
from protomesh.catalog.v1.product_service_pb2_grpc import ProductServiceStub
from protomesh.identity.v1.auth_service_pb2 import (
    LoginUserRequest,
    LogoutUserRequest,
    RefreshTokenRequest,
    TokenGrant,
)
from protomesh.identity.v1.auth_service_pb2_grpc import AuthServiceStub
from protomesh.identity.v1.role_service_pb2_grpc import RoleServiceStub
from protomesh.identity.v1.user_service_pb2_grpc import UserServiceStub
from protomesh.observer.v1.observer_service_pb2_grpc import ObserverServiceStub
from protomesh.ordering.v1.order_service_pb2_grpc import OrderServiceStub
from protomesh.projects.v1.project_service_pb2_grpc import ProjectServiceStub

from protomesh_sdk import endpoint
from protomesh_sdk.errors import Unauthenticated, from_call
from protomesh_sdk.interceptors import wants_token, with_key, with_timeout, with_token
from protomesh_sdk.session import MARGIN_SECONDS

Token = Callable[[], Awaitable[str]]


class AsyncMesh:
    """A connection to the mesh's edge for one event loop; see `Mesh` for what both do."""

    def __init__(self, url: str, *, root_certificates: bytes | None = None) -> None:
        """Opens a channel to `url`; `root_certificates` (PEM) replaces the system's, for https."""
        self._channel = _channel(endpoint.at(url, root_certificates), self._token)
        self.identity = AsyncIdentity(self._channel)
        self.catalog = AsyncCatalog(self._channel)
        self.orders = OrderServiceStub(self._channel)
        self.projects = ProjectServiceStub(self._channel)
        self.observer = ObserverServiceStub(self._channel)
        self._grant: TokenGrant | None = None
        self._valid_until = 0.0
        self._renewing = asyncio.Lock()

    async def login(self, email: str, password: str) -> None:
        """Signs in for all calls that follow. Raises Unauthenticated `LOGIN_FAILED`."""
        self._keep(await self.identity.auth.LoginUser(LoginUserRequest(email=email, password=password)))

    def use(self, grant: TokenGrant) -> None:
        """Uses tokens that were issued elsewhere for all calls that follow."""
        self._keep(grant)

    async def logout(self) -> None:
        """Signs out; the tokens are refused everywhere within seconds."""
        if self._grant is not None:
            await self.identity.auth.LogoutUser(LogoutUserRequest())
            self._grant = None

    async def close(self) -> None:
        """Closes the channel; calls that still run are cancelled."""
        await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _token(self) -> str:
        async with self._renewing:
            refresh_token = self._grant.refresh_token if self._grant else ""
            if refresh_token and time.monotonic() > self._valid_until:
                await self._renew(refresh_token)
        return self._grant.access_token if self._grant else ""

    async def _renew(self, refresh_token: str) -> None:
        try:
            self._keep(
                await self.identity.auth.RefreshToken(RefreshTokenRequest(refresh_token=refresh_token))
            )
        except Unauthenticated:
            self._grant = None
            raise

    def _keep(self, grant: TokenGrant) -> None:
        self._grant = grant
        self._valid_until = time.monotonic() + grant.expires_in - MARGIN_SECONDS


class AsyncIdentity:
    """Signing up and in, users, roles."""

    def __init__(self, channel: aio.Channel) -> None:
        self.auth = AuthServiceStub(channel)
        self.users = UserServiceStub(channel)
        self.roles = RoleServiceStub(channel)


class AsyncCatalog:
    """Products, their categories and their stock."""

    def __init__(self, channel: aio.Channel) -> None:
        self.products = ProductServiceStub(channel)
        self.categories = CategoryServiceStub(channel)
        self.inventory = InventoryServiceStub(channel)


class _Prepared:
    """Adds to a call what its contract requires: a token, an idempotency key, a timeout."""

    def __init__(self, token: Token) -> None:
        self._token = token

    async def prepare(self, details: Any) -> Any:
        if wants_token(details):
            details = with_token(details, await self._token())
        return with_timeout(with_key(details))


class _UnaryCalls(_Prepared, aio.UnaryUnaryClientInterceptor):
    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        call = await continuation(await self.prepare(client_call_details), request)
        try:
            await call
        except aio.AioRpcError as error:
            raise from_call(error) from error
        return call


class _UnaryStreams(_Prepared, aio.UnaryStreamClientInterceptor):
    async def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return _messages(await continuation(await self.prepare(client_call_details), request))


async def _messages(call: Any) -> AsyncIterator[Any]:
    try:
        async for message in call:
            yield message
    except aio.AioRpcError as error:
        raise from_call(error) from error


def _channel(edge: endpoint.Endpoint, token: Token) -> aio.Channel:
    interceptors: list[aio.ClientInterceptor] = [_UnaryCalls(token), _UnaryStreams(token)]
    if edge.credentials is None:
        return aio.insecure_channel(edge.target, endpoint.options(), interceptors=interceptors)
    return aio.secure_channel(edge.target, edge.credentials, endpoint.options(), interceptors=interceptors)
