"""A service with two workers: one is restarted or hangs, and the other one serves."""

import asyncio
import contextlib
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator

import pytest

from meshctl.mesh import control
from tests.mesh import GENEROUS, Mesh, User, running_mesh
from tests.shop import Shop

CLIENTS = 8
# One that clients reach, and one that reaches the other.
RESTARTED = ("catalog", "ordering")


@pytest.fixture(scope="module")
async def pair(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Mesh]:
    """A mesh with two workers of each service."""
    # One buyer orders for as long as the restart takes, and pays for none.
    environment = {**GENEROUS, "PROTOMESH_UNPAID_ORDERS_PER_BUYER": "1000000"}
    folder = tmp_path_factory.mktemp("pair")
    async with running_mesh(folder, "--workers", "2", environment=environment) as mesh:
        yield mesh


async def test_a_rolling_restart_of_a_service_with_two_workers_fails_no_request(pair: Mesh) -> None:
    shop = Shop(pair)
    product = await shop.new_product(units=100_000)
    buyer = await pair.sign_up()
    before = {service: set(pair.processes(service)) for service in RESTARTED}
    answers: Counter[int] = Counter()
    refusals: list[str] = []
    finished = asyncio.Event()

    async def read() -> None:
        while not finished.is_set():
            answer = await pair.http.get(f"/v1/products/{product}", headers=buyer.headers)
            answers[answer.status_code] += 1
            if answer.status_code != 200:
                refusals.append(f"read: {answer.text}")

    async def order() -> None:
        while not finished.is_set():
            answer = await shop.place(buyer, {product: 1})
            answers[answer.status_code] += 1
            if answer.status_code != 201:
                refusals.append(f"order: {answer.text}")

    clients = [asyncio.ensure_future(client()) for client in (*[read] * CLIENTS, order, order)]
    for service in RESTARTED:
        request = {"command": "restart", "service": service}
        await asyncio.to_thread(control.ask, pair.folder.control, request)
    finished.set()
    await asyncio.gather(*clients)

    assert set(answers) == {200, 201}, (answers, refusals[:5])
    assert answers[200] > 100
    for service in RESTARTED:
        after = set(pair.processes(service))
        assert len(after) == 2
        assert not before[service] & after


async def test_orders_go_on_within_seconds_when_a_worker_of_catalog_hangs(pair: Mesh) -> None:
    """It keeps its connections and says nothing: ordering and the edge must find out by themselves."""
    shop = Shop(pair)
    product = await shop.new_product(units=1000)
    buyer = await pair.sign_up()
    hung = min(pair.processes("catalog"))
    os.kill(hung, signal.SIGSTOP)
    try:
        async with asyncio.timeout(20):
            while not await accepted(shop, buyer, product):
                pass
        assert await accepted(shop, buyer, product)
    finally:
        with contextlib.suppress(ProcessLookupError):  # the supervisor may have lost its patience
            os.kill(hung, signal.SIGCONT)
    assert await accepted(shop, buyer, product)


async def accepted(shop: Shop, buyer: User, product: str) -> bool:
    """Whether twenty orders, four at a time, are all accepted."""
    for _ in range(5):
        answers = await asyncio.gather(*(shop.place(buyer, {product: 1}) for _ in range(4)))
        if {answer.status_code for answer in answers} != {201}:
            return False
    return True
