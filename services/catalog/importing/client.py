"""The catalog as an import uses it: sends rows, and creates the categories that are missing."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Self, TypeVar

import grpc
from protomesh.catalog.v1.category_pb2 import Category
from protomesh.catalog.v1.category_service_pb2 import (
    CategoryNode,
    CreateCategoryRequest,
    GetCategoryTreeRequest,
)
from protomesh.catalog.v1.product_service_pb2 import BatchImportProductsRequest, ProductRow, ProductRowResult
from protomesh.identity.v1.auth_service_pb2 import IssueOperatorTokenRequest
from protomesh.identity.v1.auth_service_pb2_grpc import AuthServiceStub

from chassis.core import Settings
from chassis.rpc import MeshChannel
from protomesh_sdk import (
    Aborted,
    AlreadyExists,
    AsyncMesh,
    DeadlineExceeded,
    MeshError,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
)
from protomesh_sdk.errors import from_call
from services.catalog.importing.failure import ImportFailed

Answer = TypeVar("Answer")

# Transient errors of the mesh: a restart, an overload, a concurrent change of the same rows.
_PASSING = (Unavailable, Aborted, ResourceExhausted, DeadlineExceeded)
_PAUSES = (0.2, 0.5, 1.0, 2.0, 4.0, 8.0, 8.0, 8.0)


# Gives the client of the mesh its tokens.
SignIn = Callable[[AsyncMesh], Awaitable[None]]


def by_password(email: str, password: str) -> SignIn:
    """Signs in as a user does."""
    return lambda mesh: mesh.login(email, password)


def as_operator(settings: Settings) -> SignIn:
    """Asks identity for an operator's tokens, over mTLS with the certificate of `operator`."""

    async def sign_in(mesh: AsyncMesh) -> None:
        async with MeshChannel(settings) as channel:
            try:
                mesh.use(await AuthServiceStub(channel).IssueOperatorToken(IssueOperatorTokenRequest()))
            except grpc.aio.AioRpcError as error:
                raise from_call(error) from None

    return sign_in


class CatalogClient:
    """Sends rows to the catalog: `async with CatalogClient(edge_url, by_password(email, password)) as client`.

    Raises ImportFailed when the edge cannot be reached or refuses a call; waits and retries after transient errors.
    """

    def __init__(self, edge_url: str, sign_in: SignIn) -> None:
        self.edge_url = edge_url
        self._start_session = sign_in
        try:
            self._mesh = AsyncMesh(edge_url)
        except ValueError as error:
            raise ImportFailed(str(error)) from None
        self._signing_in = asyncio.Lock()
        # Counts the sessions, so that of several calls whose session has ended only one signs in.
        self._session = 0
        self._ids: dict[str, str] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._mesh.close()

    async def send(self, rows: Sequence[ProductRow]) -> Sequence[ProductRowResult]:
        """Returns the result of each row."""
        request = BatchImportProductsRequest(rows=rows)
        answer = await self._call(lambda: self._mesh.catalog.products.BatchImportProducts(request))
        return answer.results

    async def make_category(self, levels: Sequence[tuple[str, str]]) -> None:
        """Creates the category with these slugs and names from the top level, and its missing parents."""
        if not self._ids:
            await self._learn_categories()
        path = parent_id = ""
        for slug, name in levels:
            path = f"{path}/{slug}" if path else slug
            if path not in self._ids:
                await self._create_category(CreateCategoryRequest(parent_id=parent_id, slug=slug, name=name))
            parent_id = self._ids[path]

    async def _create_category(self, request: CreateCategoryRequest) -> None:
        async def create() -> Category | None:
            try:
                return await self._mesh.catalog.categories.CreateCategory(request)
            except AlreadyExists:
                return None

        created = await self._call(create)
        if created is None:
            await self._learn_categories()
        else:
            self._ids[created.path] = created.id

    async def _learn_categories(self) -> None:
        request = GetCategoryTreeRequest()
        tree = await self._call(lambda: self._mesh.catalog.categories.GetCategoryTree(request))
        self._learn(tree.data)

    def _learn(self, nodes: Sequence[CategoryNode]) -> None:
        for node in nodes:
            self._ids[node.category.path] = node.category.id
            self._learn(node.children)

    async def _call(self, rpc: Callable[[], Awaitable[Answer]]) -> Answer:
        """Makes a call, and repeats it after a pause on transient errors."""
        for pause in (*_PAUSES, None):
            try:
                await self._sign_in(0)
                session = self._session
                try:
                    return await rpc()
                except Unauthenticated:
                    await self._sign_in(session)
                    return await rpc()
            except MeshError as error:
                if pause is None or not isinstance(error, _PASSING):
                    raise self._failed(error) from None
                await asyncio.sleep(max(pause, error.retry_after or 0))
        raise AssertionError

    async def _sign_in(self, ended: int) -> None:
        """Signs in, unless another call has done so since that session."""
        async with self._signing_in:
            if self._session == ended:
                await self._start_session(self._mesh)
                self._session += 1

    def _failed(self, error: MeshError) -> ImportFailed:
        if not error.reason:
            return ImportFailed(
                f"The edge at {self.edge_url} cannot be reached. Check that the mesh is running."
            )
        violations = "".join(f" {each.field}: {each.description}." for each in error.violations)
        return ImportFailed(f"The mesh refused the call: {error.message}{violations} ({error.reason})")
