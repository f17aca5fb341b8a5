"""A process of ordering that a test can stop at any step, beside those of the mesh."""

import asyncio
from collections.abc import AsyncIterator
from uuid import UUID

import pytest
from google.protobuf.duration_pb2 import Duration
from protomesh.catalog.v1.inventory_service_pb2 import ReserveStockRequest, StockLine
from protomesh.catalog.v1.inventory_service_pb2_grpc import InventoryServiceStub
from protomesh.ordering.v1.order_pb2 import Order as OrderMessage
from protomesh.ordering.v1.order_service_pb2 import PlaceOrderLine, PlaceOrderRequest

from chassis import contract
from chassis.core import uuid7
from chassis.data import Database
from chassis.rpc import Call, Caller
from services.ordering.placement import Placement
from services.ordering.settings import OrderingSettings
from services.ordering.unclaimed import UnclaimedStock
from tests.mesh import Mesh, User
from tests.shop import Shop

METHOD = contract.methods_of("protomesh.ordering.v1.OrderService")["PlaceOrder"]


class Process:
    """What a process of ordering does for an order, step by step."""

    CONNECTIONS = 4

    def __init__(self, database: Database, catalog: Database, mesh: Mesh) -> None:
        self.database, self.catalog = database, catalog
        self.inventory = InventoryServiceStub(mesh.channel("ordering"))
        settings = OrderingSettings(
            service="ordering", database_pool_size=self.CONNECTIONS, unpaid_orders_per_buyer=3
        )
        self.placement = Placement(database, self.inventory, settings)

    async def reserve(self, order_id: str, product_id: str, quantity: int = 1) -> None:
        """The first step: the stock is held, and there is no order."""
        lines = [StockLine(product_id=product_id, quantity=quantity)]
        request = ReserveStockRequest(order_id=order_id, lines=lines, hold=Duration(seconds=3600))
        await self.inventory.ReserveStock(request)

    async def place(
        self, buyer: User, product_id: str, order_id: str = "", quantity: int = 1, seconds: float = 20.0
    ) -> OrderMessage:
        """Both steps, under the id that an earlier attempt had if it is given, with so much time left."""
        call = Call(METHOD, {})
        call.caller = Caller(user_id=buyer.id, role="customer")
        call.deadline = asyncio.get_running_loop().time() + seconds
        call.operation_id = order_id or str(uuid7())
        lines = [PlaceOrderLine(product_id=product_id, quantity=quantity)]
        return await self.placement.place(PlaceOrderRequest(lines=lines), call)

    async def age(self, order_id: str, seconds: int = 60) -> None:
        """Makes an order's reservation older than it is."""
        older = "UPDATE reservations SET reserved_at = reserved_at - make_interval(secs => %s) WHERE order_id = %s"
        async with self.catalog.connection() as connection:
            await connection.execute(older, [seconds, UUID(order_id)])

    async def look_for_unclaimed_stock(self) -> None:
        """What a process does when it starts."""
        await UnclaimedStock(self.database, self.inventory).look()


@pytest.fixture
def shop(mesh: Mesh) -> Shop:
    return Shop(mesh)


@pytest.fixture
async def process(mesh: Mesh) -> AsyncIterator[Process]:
    async with (
        Database(mesh.database_url("ordering"), pool_size=4) as database,
        Database(mesh.database_url("catalog"), pool_size=4) as catalog,
    ):
        yield Process(database, catalog, mesh)
