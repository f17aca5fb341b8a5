"""What a gRPC client, and a browser with gRPC-Web, sees of the edge."""

import base64
import struct
from collections.abc import AsyncIterator

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from protomesh.ordering.v1.order_service_pb2 import GetOrderRequest, PlaceOrderRequest, WatchOrderRequest
from protomesh.ordering.v1.order_service_pb2_grpc import OrderServiceStub

from tests.edge_stand import EdgeStand

WEB = "application/grpc-web-text"
ID = "0198f2a0-0000-7000-8000-000000000001"


@pytest.fixture
async def channel(stand: EdgeStand) -> AsyncIterator[grpc.aio.Channel]:
    options = [("grpc.enable_http_proxy", 0)]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{stand.settings.port}", options) as channel:
        yield channel


def reason_of(error: grpc.aio.AioRpcError) -> str:
    # from_call insists that the details agree with the status.
    status = rpc_status.from_call(error)  # type: ignore[arg-type]
    assert status is not None
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert info.domain == "protomesh"
    return info.reason


async def test_an_exposed_rpc_is_called_natively(stand: EdgeStand, channel: grpc.aio.Channel) -> None:
    token = ("authorization", stand.bearer()["authorization"])
    await OrderServiceStub(channel).GetOrder(GetOrderRequest(id=ID), metadata=(token,))
    assert stand.upstream.received[-1].request.id == ID


async def test_a_stream_is_called_natively(stand: EdgeStand, channel: grpc.aio.Channel) -> None:
    token = ("authorization", stand.bearer()["authorization"])
    call = OrderServiceStub(channel).WatchOrder(WatchOrderRequest(id=ID), metadata=(token,))
    assert len([order async for order in call]) == 1


async def test_a_missing_token_is_unauthenticated_with_its_reason(channel: grpc.aio.Channel) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await OrderServiceStub(channel).GetOrder(GetOrderRequest(id=ID))
    assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED
    assert reason_of(refused.value) == "TOKEN_MISSING"


@pytest.mark.parametrize(
    "path",
    [
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        "/grpc.health.v1.Health/Check",
        "/protomesh.catalog.v1.InventoryService/ReserveStock",
        "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit",
        "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
    ],
)
async def test_what_is_internal_has_no_route(stand: EdgeStand, channel: grpc.aio.Channel, path: str) -> None:
    token = ("authorization", stand.bearer()["authorization"])
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await channel.unary_unary(path, bytes, bytes)(b"", metadata=(token,))
    assert refused.value.code() == grpc.StatusCode.UNIMPLEMENTED
    assert reason_of(refused.value) == "ROUTE_NOT_FOUND"
    assert stand.upstream.received == []


async def test_a_compressed_message_is_refused(stand: EdgeStand, channel: grpc.aio.Channel) -> None:
    request = PlaceOrderRequest(shipping_note="x" * 500)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await OrderServiceStub(channel).PlaceOrder(request, compression=grpc.Compression.Gzip)
    assert refused.value.code() == grpc.StatusCode.PERMISSION_DENIED
    assert reason_of(refused.value) == "REQUEST_REFUSED"


async def test_a_message_over_the_limit_of_its_contract_is_refused(
    stand: EdgeStand, channel: grpc.aio.Channel
) -> None:
    token = ("authorization", stand.bearer()["authorization"])
    request = PlaceOrderRequest(shipping_note="x" * 2 * 1024 * 1024)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await OrderServiceStub(channel).PlaceOrder(request, metadata=(token,))
    assert reason_of(refused.value) == "REQUEST_TOO_LARGE"
    assert stand.upstream.received == []


async def test_a_browser_calls_with_grpc_web(stand: EdgeStand) -> None:
    message = GetOrderRequest(id=ID).SerializeToString()
    frame = struct.pack(">BI", 0, len(message)) + message
    response = await stand.http.post(
        "/protomesh.ordering.v1.OrderService/GetOrder",
        content=base64.b64encode(frame),
        headers={**stand.bearer(), "content-type": WEB, "accept": WEB, "x-grpc-web": "1"},
    )
    assert response.status_code == 200
    assert response.headers["content-type"].startswith(WEB)
    assert "grpc-status" in response.headers or b"grpc-status:0" in _decoded(response.text)
    assert stand.upstream.received[-1].request.id == ID


def _decoded(text: str) -> bytes:
    """Base64 whose pieces are each padded, as the frames of a stream are."""
    return b"".join(base64.b64decode(text[at : at + 4]) for at in range(0, len(text), 4))


async def test_an_rpc_path_takes_no_json(stand: EdgeStand) -> None:
    response = await stand.http.post(
        "/protomesh.ordering.v1.OrderService/GetOrder", json={"id": ID}, headers=stand.bearer()
    )
    assert response.status_code == 404
    assert stand.upstream.received == []
