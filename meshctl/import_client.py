"""The catalog as an import needs it: rows go in, and the categories that they name are made when they are missing."""

from collections.abc import Sequence

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

from meshctl.mesh.session import CALL_SECONDS, EdgeSession, Metadata


class CatalogClient:
    """Sends rows to the catalog. OperatorError when the edge cannot be reached or refuses."""

    def __init__(self, session: EdgeSession) -> None:
        self._session = session
        self._products = ProductServiceStub(session.channel)
        self._categories = CategoryServiceStub(session.channel)
        self._ids: dict[str, str] = {}

    async def send(self, rows: Sequence[ProductRow]) -> Sequence[ProductRowResult]:
        """What became of each row."""
        request = BatchImportProductsRequest(rows=rows)
        answer = await self._session.call(
            lambda metadata: self._products.BatchImportProducts(
                request, timeout=CALL_SECONDS, metadata=metadata
            )
        )
        return answer.results

    async def make_category(self, levels: Sequence[tuple[str, str]]) -> None:
        """Makes the category with these slugs and names from the top, and what is missing above it."""
        if not self._ids:
            await self._learn_categories()
        path = parent_id = ""
        for slug, name in levels:
            path = f"{path}/{slug}" if path else slug
            if path not in self._ids:
                await self._create_category(CreateCategoryRequest(parent_id=parent_id, slug=slug, name=name))
            parent_id = self._ids[path]

    async def _create_category(self, request: CreateCategoryRequest) -> None:
        async def create(metadata: Metadata) -> Category | None:
            try:
                return await self._categories.CreateCategory(request, timeout=CALL_SECONDS, metadata=metadata)
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.ALREADY_EXISTS:
                    raise
                return None

        created = await self._session.call(create)
        if created is None:
            await self._learn_categories()
        else:
            self._ids[created.path] = created.id

    async def _learn_categories(self) -> None:
        tree = await self._session.call(
            lambda metadata: self._categories.GetCategoryTree(
                GetCategoryTreeRequest(), timeout=CALL_SECONDS, metadata=metadata
            )
        )
        self._learn(tree.data)

    def _learn(self, nodes: Sequence[CategoryNode]) -> None:
        for node in nodes:
            self._ids[node.category.path] = node.category.id
            self._learn(node.children)
