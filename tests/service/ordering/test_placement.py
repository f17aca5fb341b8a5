"""Every point at which placing an order can be interrupted: there is one order or none, and the stock agrees."""

import asyncio
import contextlib
import secrets
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import httpx
import psycopg
import pytest

from chassis.core import ResourceExhausted, reason_of, uuid7
from chassis.data import bulkheads
from chassis.rpc import failure
from services.ordering import repository
from services.ordering.model import NewItem, NewOrder
from tests.mesh import Mesh
from tests.patience import UNFINISHED, eventually, patiently
from tests.service.ordering.conftest import Process
from tests.shop import Shop


def new_id() -> str:
    return str(uuid7())


async def test_stock_that_was_reserved_for_no_order_comes_back_within_thirty_seconds(
    shop: Shop, process: Process
):
    product = await shop.new_product(10)
    await process.reserve(new_id(), product, 4)
    assert await shop.stock(product) == (6, 4)

    async def came_back() -> bool:
        return await shop.stock(product) == (10, 0)

    await eventually(came_back, within=30)


async def test_a_retry_goes_on_with_what_the_first_attempt_reserved(mesh: Mesh, shop: Shop, process: Process):
    buyer, product, order_id = await mesh.sign_up(), await shop.new_product(10), new_id()
    await process.reserve(order_id, product, 4)
    order = await process.place(buyer, product, order_id, quantity=4)
    assert (order.id, order.total.amount_minor) == (order_id, 1000)
    assert await shop.stock(product) == (6, 4)


async def test_a_retry_that_comes_when_the_stock_was_given_back_reserves_it_anew(
    mesh: Mesh, shop: Shop, process: Process
):
    buyer, product, order_id = await mesh.sign_up(), await shop.new_product(10), new_id()
    await process.reserve(order_id, product)
    await process.age(order_id)
    await process.look_for_unclaimed_stock()
    assert await shop.stock(product) == (10, 0)
    await process.place(buyer, product, order_id)
    assert await shop.stock(product) == (9, 1)


async def test_a_retry_after_the_order_was_written_returns_it(mesh: Mesh, shop: Shop, process: Process):
    buyer, product = await mesh.sign_up(), await shop.new_product(10)
    first = await process.place(buyer, product)
    assert await process.place(buyer, product, first.id) == first
    assert await shop.stock(product) == (9, 1)


async def test_attempts_at_once_under_one_id_place_one_order(mesh: Mesh, shop: Shop, process: Process):
    buyer, product, order_id = await mesh.sign_up(), await shop.new_product(10), new_id()
    orders = await asyncio.gather(*(process.place(buyer, product, order_id) for _ in range(10)))
    assert all(order == orders[0] for order in orders)
    assert await shop.stock(product) == (9, 1)
    listed = await mesh.http.get("/v1/orders", headers=buyer.headers)
    assert [order["id"] for order in listed.json()["data"]] == [order_id]


async def test_an_order_that_stands_keeps_its_stock_however_old_its_reservation_is(
    mesh: Mesh, shop: Shop, process: Process
):
    product = await shop.new_product(10)
    order = await process.place(await mesh.sign_up(), product)
    await process.age(order.id)
    await process.look_for_unclaimed_stock()
    assert await shop.stock(product) == (9, 1)


async def test_stock_of_an_order_that_is_over_comes_back_even_if_its_event_is_lost(
    mesh: Mesh, shop: Shop, process: Process
):
    product = await shop.new_product(10)
    order = await process.place(await mesh.sign_up(), product)
    async with process.database.connection() as connection:
        ended = "UPDATE orders SET status = 'cancelled', expires_at = NULL WHERE id = %s"
        await connection.execute(ended, [uuid.UUID(order.id)])
    await process.age(order.id)
    await process.look_for_unclaimed_stock()
    assert await shop.stock(product) == (10, 0)


async def test_a_process_that_stood_still_between_its_steps_writes_no_order_any_more(
    mesh: Mesh, process: Process
):
    buyer = await mesh.sign_up()
    began = datetime.now(UTC) - timedelta(seconds=11)
    item = NewItem(position=1, product_id=uuid.uuid4(), quantity=1, sku="A", name="A", unit_price_minor=1)
    order = NewOrder.place(
        uuid7(), uuid.UUID(buyer.id), [item], currency="GBP", at=began, payable_for=timedelta(minutes=30)
    )
    with pytest.raises(psycopg.errors.SerializationFailure) as refused:
        async with process.database.unit_of_work() as work:
            assert await repository.place(work, order)
    assert failure.from_exception(refused.value).code is grpc.StatusCode.ABORTED
    assert (await mesh.http.get(f"/v1/orders/{order.id}", headers=buyer.headers)).status_code == 404


async def test_a_reservation_that_comes_after_the_cancellation_fails(
    mesh: Mesh, shop: Shop, process: Process
):
    buyer, product = await mesh.sign_up(), await shop.new_product(10)
    order = await process.place(buyer, product)
    await shop.cancel(buyer, order.id)

    async def released() -> bool:
        return await shop.stock(product) == (10, 0)

    await eventually(released)
    with pytest.raises(grpc.aio.AioRpcError) as late:
        await process.reserve(order.id, product)
    assert reason_of(late.value) == "RESERVATION_CLOSED"
    assert await shop.stock(product) == (10, 0)


async def test_cancelling_and_placing_at_once_never_strands_stock(mesh: Mesh, shop: Shop):
    buyer, product = await mesh.sign_up(), await shop.new_product(100)

    async def place() -> httpx.Response:
        key = secrets.token_hex(16)
        return await patiently(lambda: shop.place(buyer, {product: 1}, key), UNFINISHED)

    async def cancel(order: dict[str, Any]) -> httpx.Response:
        return await patiently(lambda: shop.cancel(buyer, order["id"]), UNFINISHED)

    placing = [asyncio.create_task(place()) for _ in range(30)]
    while not all(task.done() for task in placing):
        listed = await mesh.http.get("/v1/orders?limit=100", headers=buyer.headers)
        standing = [order for order in listed.json()["data"] if order["status"] != "cancelled"]
        await asyncio.gather(*map(cancel, standing))
    assert {task.result().status_code for task in placing} == {201}, [task.result().text for task in placing]
    orders = [task.result().json() for task in placing]
    ended = await asyncio.gather(*map(cancel, orders))
    assert {answer.json()["status"] for answer in ended} == {"cancelled"}

    async def came_back() -> bool:
        return await shop.stock(product) == (100, 0)

    await eventually(came_back)


async def test_an_order_whose_turn_does_not_come_in_time_is_refused_and_leaves_nothing(
    mesh: Mesh, shop: Shop, process: Process
):
    buyer, product = await mesh.sign_up(), await shop.new_product(1)
    async with contextlib.AsyncExitStack() as others:
        for _ in range(bulkheads.shares(Process.CONNECTIONS)["calls"]):
            await others.enter_async_context(process.placement._room)
        with pytest.raises(ResourceExhausted, match="OVERLOADED"):
            await process.place(buyer, product, seconds=0.2)
    assert (await mesh.http.get("/v1/orders", headers=buyer.headers)).json()["data"] == []
    assert await shop.stock(product) == (1, 0)


async def test_one_buyer_has_so_many_unpaid_orders_and_no_more(mesh: Mesh, shop: Shop, process: Process):
    buyer, product = await mesh.sign_up(), await shop.new_product(10)
    orders = [await process.place(buyer, product) for _ in range(3)]
    with pytest.raises(ResourceExhausted, match="TOO_MANY_UNPAID_ORDERS"):
        await process.place(buyer, product)
    assert await shop.stock(product) == (7, 3)
    await process.place(await mesh.sign_up(), product)
    await shop.cancel(buyer, orders[0].id)
    await process.place(buyer, product)
