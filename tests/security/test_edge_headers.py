"""No header of a client makes a service fail, and none is read in two ways."""

import asyncio

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from protomesh.ordering.v1.order_service_pb2 import GetOrderRequest
from protomesh.ordering.v1.order_service_pb2_grpc import OrderServiceStub

from tests.edge_stand import EdgeStand
from tests.security.test_edge_requests import ID, assert_refused

UNREADABLE = [
    ("x-bin", "!!"),
    ("grpc-status", "x"),
    ("grpc-status-details-bin", "!!"),
    ("grpc-retry-pushback-ms", "x"),
    ("grpc-internal-encoding-request", "x"),
    ("grpc-message", "%"),
    ("grpc-server-stats-bin", "!!"),
    ("grpc-tags-bin", "!!"),
    ("grpc-trace-bin", "!!"),
    ("grpc-anything", "x"),
]


@pytest.mark.parametrize(("name", "value"), UNREADABLE)
async def test_what_grpc_s_library_would_choke_on_stays_outside(
    stand: EdgeStand, name: str, value: str
) -> None:
    response = await stand.http.get("/v1/orders", headers={**stand.bearer(), name: value})
    assert response.status_code == 200
    assert name not in stand.upstream.received[-1].metadata


@pytest.mark.parametrize("kind", ["application/grpc-web+proto", "application/grpc"])
@pytest.mark.parametrize(("name", "value"), UNREADABLE)
async def test_a_grpc_client_s_own_headers_stay_outside_too(
    stand: EdgeStand, name: str, value: str, kind: str
) -> None:
    headers = {**stand.bearer(), "content-type": kind, "te": "trailers", name: value}
    path = "/protomesh.ordering.v1.OrderService/GetOrder"
    response = await stand.http.post(path, content=b"\0\0\0\0\0", headers=headers)
    assert response.status_code == 200
    assert response.headers.get("grpc-status", "0") == "0"


@pytest.mark.parametrize("kind", ["application/json", "application/grpc"])
async def test_a_deadline_that_is_no_time_counts_as_none(stand: EdgeStand, kind: str) -> None:
    headers = {**stand.bearer(), "content-type": kind, "te": "trailers", "grpc-timeout": "soon"}
    if kind == "application/grpc":
        await stand.http.post(
            "/protomesh.ordering.v1.OrderService/GetOrder", content=b"\0\0\0\0\0", headers=headers
        )
    else:
        await stand.http.get(f"/v1/orders/{ID}", headers=headers)
    remaining = stand.upstream.received[-1].remaining
    assert remaining is not None
    assert 1 < remaining < 3


async def test_the_deadline_of_a_grpc_client_passes(stand: EdgeStand) -> None:
    target = f"127.0.0.1:{stand.settings.port}"
    async with grpc.aio.insecure_channel(target, [("grpc.enable_http_proxy", 0)]) as channel:
        token = ("authorization", stand.bearer()["authorization"])
        await OrderServiceStub(channel).GetOrder(GetOrderRequest(id=ID), metadata=(token,), timeout=1)
    remaining = stand.upstream.received[-1].remaining
    assert remaining is not None
    assert 0 < remaining <= 1


@pytest.mark.parametrize("kilobytes", [8, 12, 17])
async def test_too_many_headers_are_refused_in_the_one_shape(stand: EdgeStand, kilobytes: int) -> None:
    large = {**stand.bearer(), "x-large": "x" * kilobytes * 1024}
    response = await stand.http.get("/v1/orders", headers=large)
    assert_refused(response, 431, "REQUEST_TOO_LARGE")
    assert "x-large" not in response.text


async def test_headers_that_the_edge_takes_the_services_take(stand: EdgeStand) -> None:
    # A service counts 32 bytes more for each header, and has some of the edge's.
    many = {f"x-{number}": "x" * 128 for number in range(40)}
    path = f"/v1/orders?page=2&limit={'0' * 1500}7"
    assert (await stand.http.get(path, headers={**stand.bearer(), **many})).status_code == 200


async def test_too_many_headers_of_a_grpc_client_are_refused_with_details(stand: EdgeStand) -> None:
    target = f"127.0.0.1:{stand.settings.port}"
    async with grpc.aio.insecure_channel(target, [("grpc.enable_http_proxy", 0)]) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await OrderServiceStub(channel).GetOrder(
                GetOrderRequest(id=ID), metadata=(("x-large", "x" * 9000),)
            )
    status = rpc_status.from_call(refused.value)  # type: ignore[arg-type]
    assert status is not None
    info = error_details_pb2.ErrorInfo()
    status.details[0].Unpack(info)
    assert (refused.value.code(), info.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "REQUEST_TOO_LARGE")


async def test_errors_that_a_client_causes_leave_no_worker_out(stand: EdgeStand) -> None:
    async def fail(request: object, context: grpc.aio.ServicerContext[object, object]) -> None:
        await context.abort(grpc.StatusCode.INTERNAL, "a fault that a client found")

    stand.upstream.answers["/protomesh.ordering.v1.OrderService/GetOrder"] = fail
    for _ in range(30):
        assert (await stand.http.get(f"/v1/orders/{ID}", headers=stand.bearer())).status_code == 500
    assert "ejections_active: 0" in await stand.admin("/stats?filter=cluster.ordering.*ejections_active")


async def test_a_request_for_https_on_a_port_without_tls_is_told_so(stand: EdgeStand) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", stand.settings.port)
    writer.write(b"GET https://shop.example/v1/orders HTTP/1.1\r\nhost: shop.example\r\n\r\n")
    answer = (await reader.read(65536)).decode()
    writer.close()
    assert answer.startswith("HTTP/1.1 400")
    assert "port without TLS" in answer
