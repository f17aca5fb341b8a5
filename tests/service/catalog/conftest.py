"""The catalog as its three kinds of callers see it: everybody, staff, and ordering."""

import secrets
from collections.abc import Awaitable, Sequence
from typing import Any

import grpc
import psycopg
import pytest
from google.protobuf.message import Message
from protomesh.catalog.v1 import catalog_events_pb2
from protomesh.catalog.v1.category_pb2 import Category
from protomesh.catalog.v1.category_service_pb2 import CreateCategoryRequest
from protomesh.catalog.v1.category_service_pb2_grpc import CategoryServiceStub
from protomesh.catalog.v1.inventory_service_pb2 import GetStockRequest, ReserveStockRequest, Stock, StockLine
from protomesh.catalog.v1.inventory_service_pb2_grpc import InventoryServiceStub
from protomesh.catalog.v1.product_pb2 import Product
from protomesh.catalog.v1.product_service_pb2 import CreateProductRequest
from protomesh.catalog.v1.product_service_pb2_grpc import ProductServiceStub
from protomesh.type.v1.money_pb2 import Money

from chassis.core import MeshError, from_rpc, uuid7
from tests.mesh import Mesh
from tests.patience import UNFINISHED, patiently

Metadata = list[tuple[str, str]]


def word() -> str:
    """A word that no other test uses."""
    return "w" + secrets.token_hex(5)


def new_id() -> str:
    return str(uuid7())


async def refusal(call: Awaitable[Any]) -> MeshError:
    """How a call fails."""
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await call
    return from_rpc(failed.value)


class Catalog:
    """Stubs, the metadata of a staff member, and what tests do again and again."""

    def __init__(self, mesh: Mesh, staff_token: str) -> None:
        self.mesh = mesh
        self.staff: Metadata = [("authorization", f"Bearer {staff_token}")]
        self.categories = CategoryServiceStub(mesh.channel("developer"))
        self.products = ProductServiceStub(mesh.channel("developer"))
        self.inventory = InventoryServiceStub(mesh.channel("ordering"))

    def keyed(self) -> Metadata:
        """The metadata of a staff member, with a fresh idempotency key."""
        return [*self.staff, ("idempotency-key", secrets.token_hex(16))]

    async def new_category(self, parent: Category | None = None, **fields: Any) -> Category:
        given: dict[str, Any] = {
            "slug": word(),
            "name": "Things",
            "parent_id": parent.id if parent else "",
        } | fields
        return await self.categories.CreateCategory(CreateCategoryRequest(**given), metadata=self.staff)

    async def new_product(self, units: int = 0, price_minor: int = 250, **fields: Any) -> Product:
        price = Money(currency_code=fields.pop("currency", "GBP"), amount_minor=price_minor)
        given: dict[str, Any] = {
            "sku": word(),
            "name": "A thing",
            "price": price,
            "initial_stock": units,
        } | fields
        return await self.products.CreateProduct(CreateProductRequest(**given), metadata=self.staff)

    async def stock(self, product_id: str) -> Stock:
        return await self.inventory.GetStock(GetStockRequest(product_id=product_id), metadata=self.staff)

    async def published(self, aggregate_id: str) -> list[tuple[Message, int]]:
        """The events about an aggregate, and its version at each."""
        async with await psycopg.AsyncConnection.connect(self.mesh.database_url("catalog")) as database:
            rows = await database.execute(
                "SELECT type, payload, aggregate_version FROM outbox WHERE aggregate_id = %s ORDER BY position",
                [aggregate_id],
            )
            return [(_event(kind, payload), version) for kind, payload, version in await rows.fetchall()]

    async def reserve(
        self, order_id: str, *lines: tuple[str, int], seconds: int = 3600, **fields: Any
    ) -> Any:
        request = ReserveStockRequest(order_id=order_id, lines=stock_lines(lines), **fields)
        request.hold.FromSeconds(seconds)
        # As ordering does, under the same id.
        return await patiently(lambda: self.inventory.ReserveStock(request), UNFINISHED)


def told(product: Product) -> Product:
    """A product as events tell of it: less the stock, which changes apart from it and marks its etag."""
    without = Product()
    without.CopyFrom(product)
    without.ClearField("available")
    without.ClearField("in_stock")
    without.etag = product.etag.partition(".")[0]
    return without


def _event(kind: str, payload: bytes) -> Message:
    event: Message = getattr(catalog_events_pb2, kind.rpartition(".")[2])()
    event.ParseFromString(payload)
    return event


def stock_lines(lines: Sequence[tuple[str, int]]) -> list[StockLine]:
    return [StockLine(product_id=product_id, quantity=quantity) for product_id, quantity in lines]


@pytest.fixture(scope="session")
async def catalog(mesh: Mesh) -> Catalog:
    return Catalog(mesh, await mesh.staff_token())
