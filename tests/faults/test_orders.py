"""kill -9 in the middle of placing orders: nothing is lost, nothing doubled, and no stock stays with nobody."""

import asyncio
import contextlib
from collections.abc import Sequence

import httpx
import pytest
from protomesh.catalog.v1.reconciliation_service_pb2_grpc import ReconciliationServiceStub

from chassis.data import Database
from services.ordering.reconcile import Finding, compare
from tests.mesh import Mesh, User
from tests.patience import eventually
from tests.shop import Shop, fresh_key, insist

ORDERS = 1000
IN_FLIGHT = 40
# After so many orders, this is killed. Ordering runs the relay and catalog the consumer.
KILLS = ((150, "ordering"), (350, "catalog"), (550, "nats"), (750, "postgres"))
SETTLED_SECONDS = 30.0


@pytest.fixture
def shop(mesh: Mesh) -> Shop:
    return Shop(mesh)


class Progress:
    """Counts what is done, and wakes whoever waits for a number of it."""

    def __init__(self) -> None:
        self._done = 0
        self._changed = asyncio.Condition()

    async def count(self) -> None:
        async with self._changed:
            self._done += 1
            self._changed.notify_all()

    async def reached(self, number: int) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: self._done >= number)


async def disagreements(mesh: Mesh) -> list[Finding]:
    catalog = ReconciliationServiceStub(mesh.channel("ordering"))
    async with Database(mesh.database_url("ordering"), name="reconcile") as ordering:
        return [finding async for finding in compare(ordering, catalog, grace_seconds=0)]


async def agree(mesh: Mesh, seconds: float) -> None:
    """Waits until ordering and catalog agree on every order."""
    found: list[Finding] = []

    async def agreed() -> bool:
        found[:] = await disagreements(mesh)
        return not found

    with contextlib.suppress(AssertionError):
        await eventually(agreed, seconds)
    assert found == []


def kill(mesh: Mesh, part: str) -> None:
    for pid in mesh.processes(part):
        mesh.kill(pid)


def restarts(mesh: Mesh) -> dict[str, int]:
    """How often each part was started again; of several workers, the first one counts."""
    return {state["name"].removesuffix("-1"): int(state["restarts"]) for state in mesh.status()}


async def order_all(
    mesh: Mesh, shop: Shop, buyers: Sequence[User], product: str, progress: Progress
) -> list[str]:
    """Places all orders, a number at a time, and cancels every fifth; gives their ids."""
    gate = asyncio.Semaphore(IN_FLIGHT)

    async def order(number: int) -> str:
        buyer, key = buyers[number % len(buyers)], fresh_key()["idempotency-key"]
        async with gate:
            placed = await insist(lambda: shop.place(buyer, {product: 1}, key))
            assert placed.status_code == 201, placed.text
            order_id = str(placed.json()["id"])
            if number % 5 == 0:
                cancelled = await insist(lambda: shop.cancel(buyer, order_id))
                assert cancelled.json()["status"] == "cancelled", cancelled.text
            await progress.count()
        return order_id

    return await asyncio.gather(*(order(number) for number in range(ORDERS)))


async def test_a_thousand_orders_survive_kill_9_of_relay_consumer_broker_and_database(mesh: Mesh, shop: Shop):
    buyers = [await mesh.sign_up() for _ in range(10)]
    product, progress = await shop.new_product(ORDERS), Progress()

    async def havoc() -> None:
        for number, part in KILLS:
            await progress.reached(number)
            kill(mesh, part)

    before = restarts(mesh)
    ids, _ = await asyncio.gather(order_all(mesh, shop, buyers, product, progress), havoc())
    await mesh.healthy()
    assert all(restarts(mesh)[part] > before[part] for _, part in KILLS)
    assert len(set(ids)) == ORDERS
    listed = [await mesh.http.get("/v1/orders?limit=1", headers=buyer.headers) for buyer in buyers]
    assert sum(answer.json()["meta"]["total"] for answer in listed) == ORDERS

    await agree(mesh, seconds=60)
    assert await shop.stock(product) == (ORDERS // 5, ORDERS - ORDERS // 5)


async def test_what_a_killed_process_reserved_for_no_order_comes_back_though_nobody_asks_again(
    mesh: Mesh, shop: Shop
):
    buyer, product = await mesh.sign_up(), await shop.new_product(60)
    progress = Progress()

    async def order() -> None:
        try:
            await shop.place(buyer, {product: 1})
        except httpx.TransportError:
            return
        await progress.count()

    placing = [asyncio.create_task(order()) for _ in range(100)]
    await progress.reached(20)
    kill(mesh, "ordering")
    await asyncio.gather(*placing)

    await agree(mesh, SETTLED_SECONDS)
    await mesh.healthy()
    orders = (await mesh.http.get("/v1/orders?limit=1", headers=buyer.headers)).json()["meta"]["total"]
    assert await shop.stock(product) == (60 - orders, orders)
