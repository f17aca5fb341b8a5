"""A service that has as many requests as it finishes in time gets no more from the edge, and the client is told so."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from protomesh.ordering.v1.order_pb2 import Order
from protomesh.ordering.v1.order_service_pb2 import GetOrderRequest, PlaceOrderRequest

from chassis.core import errors
from meshctl.edge import rendering
from tests.edge_stand import Context, EdgeStand, edge_stand
from tests.patience import eventually

ID = "0198f2a0-0000-7000-8000-000000000001"
GET, PLACE = (f"/protomesh.ordering.v1.OrderService/{name}" for name in ("GetOrder", "PlaceOrder"))
LOGIN = "/protomesh.identity.v1.AuthService/LoginUser"
# The line takes whoever comes before the first connections are there, too.
ROOM, LINE = 4, 4
KEY = {"idempotency-key": "0123456789abcdef"}


class Counter:
    """An RPC that answers when it is let, and knows how many wait for that."""

    def __init__(self) -> None:
        self._waiting = 0
        self._changed = asyncio.Condition()
        self._open = asyncio.Event()

    async def __call__(self, request: Any, context: Context) -> Any:
        async with self._changed:
            self._waiting += 1
            self._changed.notify_all()
        await self._open.wait()
        return Order(id=ID)

    async def reached(self, number: int) -> None:
        async with asyncio.timeout(10), self._changed:
            await self._changed.wait_for(lambda: self._waiting >= number)

    def let(self) -> None:
        self._open.set()


@asynccontextmanager
async def full(directory: Path, certificates: Path, rpc: str) -> AsyncIterator[tuple[EdgeStand, Counter]]:
    """An edge before a service that has all the requests of that RPC that it may have."""
    bounds: dict[str, Any] = {
        "maximum_requests": ROOM,
        "maximum_waiting_requests": LINE,
        "maximum_long_requests": ROOM,
    }
    async with edge_stand(directory, certificates, **bounds) as stand:
        counter = Counter()
        stand.upstream.answers[rpc] = counter
        waiting = [asyncio.ensure_future(ask(stand, rpc)) for _ in range(ROOM)]
        await counter.reached(ROOM)
        if rpc == GET:
            waiting += [asyncio.ensure_future(ask(stand, rpc)) for _ in range(LINE)]
            await shows(stand, "cluster.ordering.upstream_rq_pending_active", LINE)
        try:
            yield stand, counter
        finally:
            counter.let()
            answers = await asyncio.gather(*waiting)
        assert {answer.status_code for answer in answers} <= {200, 201}


async def ask(stand: EdgeStand, rpc: str) -> httpx.Response:
    if rpc == GET:
        return await stand.http.get(f"/v1/orders/{ID}", headers=stand.bearer())
    if rpc == LOGIN:
        return await stand.http.post("/v1/users/login", json={})
    headers = {**stand.bearer(), **KEY}
    return await stand.http.post("/v1/orders", json={}, headers=headers)


@pytest.mark.parametrize("rpc", [GET, PLACE])
async def test_one_request_too_many_is_told_to_come_back(
    tmp_path: Path, edge_certificates: Path, rpc: str
) -> None:
    async with full(tmp_path, edge_certificates, rpc) as (stand, counter):
        refused = await ask(stand, rpc)
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        body = refused.json()
        assert body["code"] == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
        assert [detail.get("reason") or detail["retry_delay"] for detail in body["details"]] == [
            "OVERLOADED",
            "1s",
        ]
        counter.let()
        await stand.eventually(200, f"/v1/orders/{ID}", seconds=5)


@pytest.mark.parametrize(("rpc", "request_class"), [(GET, GetOrderRequest), (PLACE, PlaceOrderRequest)])
async def test_a_grpc_client_is_told_in_the_same_words(
    tmp_path: Path, edge_certificates: Path, rpc: str, request_class: type[Any]
) -> None:
    async with full(tmp_path, edge_certificates, rpc) as (stand, _):
        target = f"127.0.0.1:{stand.settings.port}"
        async with grpc.aio.insecure_channel(target, [("grpc.enable_http_proxy", 0)]) as channel:
            metadata = tuple({**stand.bearer(), **KEY}.items())
            call: Any = channel.unary_unary(rpc, request_serializer=request_class.SerializeToString)
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await call(request_class(), metadata=metadata)
    refused = errors.from_rpc(raised.value)
    assert (raised.value.code(), refused.code) == (grpc.StatusCode.RESOURCE_EXHAUSTED,) * 2
    assert (refused.reason, refused.retry_after) == ("OVERLOADED", 1)


async def test_a_service_s_own_refusal_tells_http_when_to_come_back(stand: EdgeStand) -> None:
    async def refuse(request: Any, context: Context) -> None:
        status = errors.overloaded().status().SerializeToString()
        trailers = ((errors.STATUS_DETAILS, status), ("retry-after", "1"))
        await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "busy", trailers)

    stand.upstream.answers[GET] = refuse
    refused = await ask(stand, GET)
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
    assert refused.json()["details"][0]["reason"] == "OVERLOADED"


@pytest.mark.parametrize(("busy", "free"), [(GET, PLACE), (PLACE, GET), (PLACE, LOGIN)])
async def test_short_calls_and_long_ones_leave_each_other_their_room(
    tmp_path: Path, edge_certificates: Path, busy: str, free: str
) -> None:
    async with full(tmp_path, edge_certificates, busy) as (stand, _):
        assert (await ask(stand, busy)).status_code == 429
        assert (await ask(stand, free)).status_code in (200, 201)


async def test_the_limiter_is_not_asked_about_an_order_that_is_refused(
    tmp_path: Path, edge_certificates: Path
) -> None:
    """Asking it costs more than the rest of the refusal, and would count what was never tried."""
    async with full(tmp_path, edge_certificates, PLACE) as (stand, _):
        asked = len(stand.upstream.asked)
        assert (await ask(stand, PLACE)).status_code == 429
        assert len(stand.upstream.asked) == asked == ROOM


async def test_an_order_that_arrives_slowly_takes_nobodys_place(
    tmp_path: Path, edge_certificates: Path
) -> None:
    async with edge_stand(tmp_path, edge_certificates, maximum_long_requests=1) as stand:
        _, slow = await asyncio.open_connection("127.0.0.1", stand.settings.port)
        headers = {"host": "edge", "content-length": "2", **stand.bearer(), **KEY}
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        slow.write(f"POST /v1/orders HTTP/1.1\r\n{lines}\r\n{{".encode())
        await shows(stand, "http.edge.downstream_rq_active", 1)
        assert (await ask(stand, PLACE)).status_code == 201
        slow.close()


async def test_the_gate_of_orders_is_wide_while_they_are_quick_and_narrow_while_they_are_slow(
    tmp_path: Path, edge_certificates: Path
) -> None:
    limit = "gradient_controller.concurrency_limit"
    async with edge_stand(tmp_path, edge_certificates, maximum_long_requests=60) as stand:
        await shows(stand, limit, rendering.LEAST_LONG_REQUESTS)
        while not await shown(stand, limit, 60):
            assert (await ask(stand, PLACE)).status_code == 201

        async def slow(request: Any, context: Context) -> Order:
            await asyncio.sleep(2)
            return Order(id=ID)

        stand.upstream.answers[PLACE] = slow
        assert (await ask(stand, PLACE)).status_code == 201
        # Half of it, the most that it loses at once, and the square root of that.
        await shows(stand, limit, 35)


async def shows(stand: EdgeStand, statistic: str, value: int) -> None:
    async def there() -> bool:
        return await shown(stand, statistic, value)

    await eventually(there, within=10)


async def shown(stand: EdgeStand, statistic: str, value: int) -> bool:
    return f"{statistic}: {value}\n" in await stand.admin(f"/stats?filter={statistic}")
