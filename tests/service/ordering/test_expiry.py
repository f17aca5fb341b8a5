"""Orders that are not paid in time: they end by themselves, once, and their stock comes back."""

import asyncio
import json
import uuid
from collections.abc import Iterable

from services.ordering import expiry
from tests.mesh import Mesh
from tests.patience import eventually
from tests.service.ordering.conftest import Process
from tests.shop import Shop, reason_of


async def make_due(process: Process, order_ids: Iterable[str]) -> None:
    """Has the time of orders be up."""
    async with process.database.connection() as connection:
        due = "UPDATE orders SET expires_at = now() - interval '1 second' WHERE id = ANY(%s)"
        await connection.execute(due, [[uuid.UUID(order_id) for order_id in order_ids]])


async def events_of(process: Process, order_id: str) -> list[str]:
    """The events of an order after the first, by the last word of their types."""
    async with process.database.connection() as connection:
        found = await connection.execute(
            "SELECT type FROM outbox WHERE aggregate_id = %s AND aggregate_version > 1", [order_id]
        )
        return [str(row[0]).rsplit(".", 1)[-1] for row in await found.fetchall()]


async def test_an_order_that_is_not_paid_in_time_expires_and_gives_its_stock_back(
    mesh: Mesh, shop: Shop, process: Process
):
    buyer, product = await mesh.sign_up(), await shop.new_product(5)
    order = await shop.ordered(buyer, {product: 4})
    path, seen = f"/v1/orders/{order['id']}:watch", []
    async with mesh.http.stream("GET", path, headers=buyer.headers, timeout=30) as stream:
        async for line in stream.aiter_lines():
            if line.startswith("data:"):
                seen.append(json.loads(line.removeprefix("data:")))
            if len(seen) == 1:
                await make_due(process, [order["id"]])
    assert [entry["status"] for entry in seen] == ["pending_payment", "expired"]
    assert [entry["status"] for entry in seen[-1]["history"]] == ["pending_payment", "expired"]
    assert "expires_at" not in seen[-1]
    assert await events_of(process, order["id"]) == ["OrderExpired"]

    async def came_back() -> bool:
        return await shop.stock(product) == (5, 0)

    await eventually(came_back)
    late = await shop.cancel(buyer, order["id"])
    assert (late.status_code, reason_of(late)) == (400, "ORDER_NOT_CANCELLABLE")
    assert late.json()["details"][0]["metadata"] == {"status": "expired"}


async def test_an_order_expires_only_when_its_time_is_up(mesh: Mesh, shop: Shop, process: Process):
    buyer, product = await mesh.sign_up(), await shop.new_product(2)
    due, waiting = [(await shop.ordered(buyer, {product: 1}))["id"] for _ in range(2)]
    await make_due(process, [due])

    async def expired() -> bool:
        return bool((await shop.get(buyer, due)).json()["status"] == "expired")

    await eventually(expired)
    assert (await shop.get(buyer, waiting)).json()["status"] == "pending_payment"


async def test_cancelling_and_expiring_at_once_ends_each_order_once(mesh: Mesh, shop: Shop, process: Process):
    buyer, product = await mesh.sign_up(), await shop.new_product(20)
    orders = [(await shop.ordered(buyer, {product: 1}))["id"] for _ in range(20)]
    await make_due(process, orders)
    await asyncio.gather(
        *(shop.cancel(buyer, order) for order in orders),
        *(expiry.expire_batch(process.database) for _ in range(3)),
    )

    async def all_over() -> bool:
        listed = (await mesh.http.get("/v1/orders?limit=100", headers=buyer.headers)).json()["data"]
        return {order["status"] for order in listed} <= {"cancelled", "expired"}

    await eventually(all_over)
    for order in orders:
        status = (await shop.get(buyer, order)).json()["status"]
        assert await events_of(process, order) == [f"Order{status.title()}"]

    async def came_back() -> bool:
        return await shop.stock(product) == (20, 0)

    await eventually(came_back)
