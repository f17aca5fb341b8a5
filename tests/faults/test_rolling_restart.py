"""A service with two workers is restarted under load, and no client notices."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator

import pytest

from meshctl.mesh import control
from tests.mesh import Mesh, running_mesh
from tests.shop import Shop

CLIENTS = 8
# One that clients reach, and one that reaches the other.
RESTARTED = ("catalog", "ordering")


@pytest.fixture(scope="module")
async def pair(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Mesh]:
    """A mesh with two workers of each service."""
    async with running_mesh(tmp_path_factory.mktemp("pair"), "--workers", "2") as mesh:
        yield mesh


async def test_a_rolling_restart_of_a_service_with_two_workers_fails_no_request(pair: Mesh) -> None:
    shop = Shop(pair)
    product = await shop.new_product(units=100_000)
    buyer = await pair.sign_up()
    before = {service: set(pair.processes(service)) for service in RESTARTED}
    answers: Counter[int] = Counter()
    finished = asyncio.Event()

    async def read() -> None:
        while not finished.is_set():
            answer = await pair.http.get(f"/v1/products/{product}", headers=buyer.headers)
            answers[answer.status_code] += 1

    async def order() -> None:
        while not finished.is_set():
            answer = await shop.place(buyer, {product: 1})
            answers[answer.status_code] += 1

    clients = [asyncio.ensure_future(client()) for client in (*[read] * CLIENTS, order, order)]
    for service in RESTARTED:
        request = {"command": "restart", "service": service}
        await asyncio.to_thread(control.ask, pair.folder.control, request)
    finished.set()
    await asyncio.gather(*clients)

    assert set(answers) == {200, 201}, answers
    assert answers[200] > 100
    for service in RESTARTED:
        after = set(pair.processes(service))
        assert len(after) == 2
        assert not before[service] & after
