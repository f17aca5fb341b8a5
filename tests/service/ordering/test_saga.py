"""The saga of an order: whoever dies or is late on the way, the order is decided once, and the stock agrees."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator

import grpc
import pytest
from protomesh.catalog.v1.inventory_service_pb2 import ReserveStockRequest, StockLine
from protomesh.catalog.v1.inventory_service_pb2_grpc import InventoryServiceStub
from protomesh.ordering.v1.order_service_pb2 import PlaceOrderLine, PlaceOrderRequest

from chassis import contract
from chassis.core import ResourceExhausted, reason_of
from chassis.data import Database
from chassis.rpc import Call, Caller
from services.ordering import repository
from services.ordering.model import Order, OrderItem
from services.ordering.placement import Placement
from tests.mesh import Mesh, User
from tests.shop import Shop, eventually
from tests.shop import reason_of as reason_of_answer
from tests.traces import Trace, Traces

RESERVED = ("catalog", "server", "protomesh.catalog.v1.InventoryService/ReserveStock")


class Process:
    """A process of ordering as far as an order's saga goes, which a test can stop at any step."""

    def __init__(self, database: Database, mesh: Mesh) -> None:
        self.database = database
        self.inventory = InventoryServiceStub(mesh.channel("ordering"))
        self.placement = Placement(database, self.inventory, at_once=1)
        self.written: dict[str, Order] = {}

    async def write(self, buyer: User, product_id: str, quantity: int) -> str:
        """The first transaction: the order is there, under a lease, and nothing is reserved."""
        item = OrderItem(position=1, product_id=uuid.UUID(product_id), quantity=quantity)
        item.sku, item.name, item.unit_price_minor = "A", "A", 1
        order = Order.place(uuid.uuid4(), uuid.UUID(buyer.id), "GBP", [item], "")
        async with self.database.unit_of_work() as work:
            await repository.place(work, order)
        self.written[str(order.id)] = order
        return str(order.id)

    async def reserve(self, order_id: str, product_id: str, quantity: int) -> None:
        lines = [StockLine(product_id=product_id, quantity=quantity)]
        await self.inventory.ReserveStock(ReserveStockRequest(order_id=order_id, lines=lines))

    async def decide(self, order_id: str) -> object:
        """What remains after the first transaction, under the lease that it took."""
        return await self.placement._finish(self.written[order_id], fencing_token=1)


def wanted(product_id: str) -> PlaceOrderRequest:
    return PlaceOrderRequest(lines=[PlaceOrderLine(product_id=product_id, quantity=1)])


def call_of(buyer: User, seconds: float) -> Call:
    """A call of PlaceOrder that has so much time left."""
    method = contract.methods_of("protomesh.ordering.v1.OrderService")["PlaceOrder"]
    call = Call(method, {})
    call.caller = Caller(user_id=buyer.id, role="customer")
    call.deadline = asyncio.get_running_loop().time() + seconds
    return call


@pytest.fixture
def shop(mesh: Mesh) -> Shop:
    return Shop(mesh)


@pytest.fixture
async def process(mesh: Mesh) -> AsyncIterator[Process]:
    async with Database(mesh.database_url("ordering"), pool_size=4) as database:
        yield Process(database, mesh)


async def status_of(shop: Shop, buyer: User, order_id: str) -> str:
    return str((await shop.get(buyer, order_id)).json()["status"])


async def test_an_order_whose_process_died_is_decided_within_thirty_seconds(
    mesh: Mesh, shop: Shop, process: Process
):
    buyer, product = await mesh.sign_up(), await shop.new_product(10)
    died_early = await process.write(buyer, product, 1)
    died_late = await process.write(buyer, product, 2)
    await process.reserve(died_late, product, 2)
    hopeless = await process.write(buyer, product, 11)
    orders = {died_early: "pending_payment", died_late: "pending_payment", hopeless: "rejected"}

    async def decided() -> bool:
        return {order: await status_of(shop, buyer, order) for order in orders} == orders

    await eventually(decided, seconds=30)
    assert await shop.stock(product) == (7, 3)
    await eventually(lambda: recovery_is_traced(Traces(mesh), died_early))


async def recovery_is_traced(traces: Traces, order_id: str) -> bool:
    """Whether a trace of its own shows how ordering finished the order, with the stock that catalog reserved."""
    for summary in (await traces.listed(search="recover order"))["data"]:
        trace = Trace((await traces.get(f"/v1/observer/traces/{summary['trace_id']}")).json())
        [recovery] = trace.roots
        if recovery["attributes"].get("order.id") == order_id:
            return RESERVED in trace.hops
    return False


async def test_a_process_that_was_thought_dead_changes_nothing_when_it_comes_back(
    mesh: Mesh, shop: Shop, process: Process
):
    buyer, product = await mesh.sign_up(), await shop.new_product(10)
    order = await process.write(buyer, product, 4)
    await process.placement.resume(uuid.UUID(order))
    assert await process.decide(order) is None
    history = (await shop.get(buyer, order)).json()["history"]
    assert [entry["status"] for entry in history] == ["placing", "pending_payment"]
    assert await shop.stock(product) == (6, 4)


async def test_an_order_that_is_cancelled_while_it_is_placed_keeps_no_stock(
    mesh: Mesh, shop: Shop, process: Process
):
    buyer, product = await mesh.sign_up(), await shop.new_product(10)
    before, after = [await process.write(buyer, product, 1) for _ in range(2)]
    await process.reserve(after, product, 1)
    for order in (before, after):
        assert (await shop.cancel(buyer, order)).json()["status"] == "cancelled"
        assert await process.decide(order) is None
        assert await status_of(shop, buyer, order) == "cancelled"

    async def came_back() -> bool:
        return await shop.stock(product) == (10, 0)

    await eventually(came_back)


async def test_a_reservation_that_comes_after_the_cancellation_fails(
    mesh: Mesh, shop: Shop, process: Process
):
    buyer, product = await mesh.sign_up(), await shop.new_product(10)
    order = await process.write(buyer, product, 1)
    await process.reserve(order, product, 1)
    await shop.cancel(buyer, order)

    async def released() -> bool:
        return await shop.stock(product) == (10, 0)

    await eventually(released)
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await process.reserve(order, product, 1)
    assert reason_of(failure.value) == "RESERVATION_CLOSED"
    assert await shop.stock(product) == (10, 0)


async def test_cancelling_and_placing_at_once_never_strands_stock(mesh: Mesh, shop: Shop):
    buyer, product = await mesh.sign_up(), await shop.new_product(100)
    placing = [asyncio.create_task(shop.place(buyer, {product: 1})) for _ in range(30)]
    while not all(task.done() for task in placing):
        listed = await mesh.http.get("/v1/orders?limit=100", headers=buyer.headers)
        standing = [order for order in listed.json()["data"] if order["status"] != "cancelled"]
        await asyncio.gather(*(shop.cancel(buyer, order["id"]) for order in standing))
    assert {task.result().status_code for task in placing} == {201}, [task.result().text for task in placing]
    orders = [task.result().json() for task in placing]
    await asyncio.gather(*(shop.cancel(buyer, order["id"]) for order in orders))
    assert {await status_of(shop, buyer, order["id"]) for order in orders} == {"cancelled"}

    async def came_back() -> bool:
        return await shop.stock(product) == (100, 0)

    await eventually(came_back)


async def test_an_order_whose_stock_is_gone_when_it_reserves_is_rejected_for_good(
    mesh: Mesh, shop: Shop, process: Process
):
    buyer, product = await mesh.sign_up(), await shop.new_product(1)
    order = await process.write(buyer, product, 1)
    await shop.ordered(await mesh.sign_up(), {product: 1})
    assert await process.decide(order) is None
    assert (await shop.get(buyer, order)).json()["reason"] == "OUT_OF_STOCK"
    rejected = await mesh.http.get("/v1/orders?status=rejected", headers=buyer.headers)
    assert [entry["id"] for entry in rejected.json()["data"]] == [order]
    cancelled = await shop.cancel(buyer, order)
    assert (cancelled.status_code, reason_of_answer(cancelled)) == (400, "ORDER_NOT_CANCELLABLE")


async def test_an_order_whose_turn_does_not_come_in_time_is_refused_and_leaves_nothing(
    mesh: Mesh, shop: Shop, process: Process
):
    buyer, product = await mesh.sign_up(), await shop.new_product(1)
    async with process.placement._room:
        with pytest.raises(ResourceExhausted, match="OVERLOADED"):
            await process.placement.place(wanted(product), call_of(buyer, seconds=0.2))
    assert (await mesh.http.get("/v1/orders", headers=buyer.headers)).json()["data"] == []
    assert await shop.stock(product) == (1, 0)


async def test_a_watcher_hears_of_a_change_that_another_process_made(
    mesh: Mesh, shop: Shop, process: Process
):
    buyer, product = await mesh.sign_up(), await shop.new_product(1)
    order = await process.write(buyer, product, 1)
    seen = []
    path = f"/v1/orders/{order}:watch"
    async with mesh.http.stream("GET", path, headers=buyer.headers, timeout=30) as stream:
        async for line in stream.aiter_lines():
            if not line.startswith("data:"):
                continue
            seen.append(json.loads(line.removeprefix("data:"))["status"])
            if seen == ["placing"]:
                await process.decide(order)
            elif seen == ["placing", "pending_payment"]:
                await shop.cancel(buyer, order)
    assert seen == ["placing", "pending_payment", "cancelled"]
