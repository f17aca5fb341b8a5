"""The catalog as an operator reaches it: through the edge, signed in, over native gRPC."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Self, TypeVar
from urllib.parse import urlsplit

import grpc
from protomesh.catalog.v1.category_pb2 import Category
from protomesh.catalog.v1.category_service_pb2 import (
    CategoryNode,
    CreateCategoryRequest,
    GetCategoryTreeRequest,
)
from protomesh.catalog.v1.category_service_pb2_grpc import CategoryServiceStub
from protomesh.catalog.v1.product_service_pb2 import BatchImportProductsRequest, ProductRow, ProductRowResult
from protomesh.catalog.v1.product_service_pb2_grpc import ProductServiceStub
from protomesh.identity.v1.auth_service_pb2 import LoginUserRequest
from protomesh.identity.v1.auth_service_pb2_grpc import AuthServiceStub

from chassis.errors import from_rpc
from meshctl.failure import OperatorError

Answer = TypeVar("Answer")

CALL_SECONDS = 15.0
# Passing states of the mesh: a restart, a rush, another import of the same rows.
_PASSING = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
}
_PAUSES = (0.2, 0.5, 1.0, 2.0, 4.0, 8.0, 8.0, 8.0)


class CatalogClient:
    """Sends rows to the catalog. OperatorError when the edge cannot be reached or refuses."""

    def __init__(self, edge_url: str, email: str, password: str) -> None:
        self._login = LoginUserRequest(email=email, password=password)
        self._edge_url = edge_url
        self._channel = _channel(edge_url)
        self._auth = AuthServiceStub(self._channel)
        self._products = ProductServiceStub(self._channel)
        self._categories = CategoryServiceStub(self._channel)
        self._signing_in = asyncio.Lock()
        self._token = ""
        self._paths: dict[str, str] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._channel.close()

    async def send(self, rows: Sequence[ProductRow]) -> Sequence[ProductRowResult]:
        """What became of each row."""
        request = BatchImportProductsRequest(rows=rows)
        answer = await self._persist(
            lambda metadata: self._products.BatchImportProducts(
                request, timeout=CALL_SECONDS, metadata=metadata
            )
        )
        return answer.results

    async def make_category(self, levels: Sequence[tuple[str, str]]) -> None:
        """Makes the category with these slugs and names from the top, and what is missing above it."""
        if not self._paths:
            await self._learn_categories()
        path = parent_id = ""
        for slug, name in levels:
            path = f"{path}/{slug}" if path else slug
            if path not in self._paths:
                await self._create_category(CreateCategoryRequest(parent_id=parent_id, slug=slug, name=name))
            parent_id = self._paths[path]

    async def _create_category(self, request: CreateCategoryRequest) -> None:
        async def create(metadata: list[tuple[str, str]]) -> Category | None:
            try:
                return await self._categories.CreateCategory(request, timeout=CALL_SECONDS, metadata=metadata)
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.ALREADY_EXISTS:
                    raise
                return None

        created = await self._persist(create)
        if created is None:
            await self._learn_categories()
        else:
            self._paths[created.path] = created.id

    async def _learn_categories(self) -> None:
        def learn(nodes: Sequence[CategoryNode]) -> None:
            for node in nodes:
                self._paths[node.category.path] = node.category.id
                learn(node.children)

        tree = await self._persist(
            lambda metadata: self._categories.GetCategoryTree(
                GetCategoryTreeRequest(), timeout=CALL_SECONDS, metadata=metadata
            )
        )
        learn(tree.data)

    async def _persist(self, call: Callable[[list[tuple[str, str]]], Awaitable[Answer]]) -> Answer:
        """Makes a call, signed in, and again after a pause while the mesh is in a passing state."""
        for pause in (*_PAUSES, None):
            token = self._token or await self._sign_in("")
            try:
                return await call([("authorization", f"Bearer {token}")])
            except grpc.aio.AioRpcError as error:
                if pause is None or error.code() not in {*_PASSING, grpc.StatusCode.UNAUTHENTICATED}:
                    raise self._refused(error) from None
                if error.code() is grpc.StatusCode.UNAUTHENTICATED:
                    await self._sign_in(token)
                else:
                    await asyncio.sleep(max(pause, from_rpc(error).retry_after or 0))
        raise AssertionError

    async def _sign_in(self, stale: str) -> str:
        """A token that is not the stale one; of several calls that find theirs expired, one signs in."""
        async with self._signing_in:
            if self._token == stale:
                try:
                    grant = await self._auth.LoginUser(self._login, timeout=CALL_SECONDS, wait_for_ready=True)
                except grpc.aio.AioRpcError as error:
                    raise self._refused(error) from None
                self._token = grant.access_token
            return self._token

    def _refused(self, error: grpc.aio.AioRpcError) -> OperatorError:
        failure = from_rpc(error)
        if not failure.reason:
            return OperatorError(f"The edge at {self._edge_url} cannot be reached: is the mesh up?")
        return OperatorError(f"The mesh refused: {failure.message} ({failure.reason})")


def _channel(edge_url: str) -> grpc.aio.Channel:
    url = urlsplit(edge_url)
    if not url.hostname or url.scheme not in ("http", "https"):
        raise OperatorError(f"{edge_url!r} is no URL of an edge, such as http://127.0.0.1:8080.")
    target = f"{url.hostname}:{url.port or (443 if url.scheme == 'https' else 80)}"
    if url.scheme == "https":
        return grpc.aio.secure_channel(target, grpc.ssl_channel_credentials())
    return grpc.aio.insecure_channel(target)
