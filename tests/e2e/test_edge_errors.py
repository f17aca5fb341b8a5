"""The errors that the edge raises itself: each says what is wrong, in the one shape, and a page may read it."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
import httpx
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from protomesh.identity.v1.auth_service_pb2 import LoginUserRequest
from protomesh.identity.v1.auth_service_pb2_grpc import AuthServiceStub
from protomesh.ordering.v1.order_service_pb2 import GetOrderRequest
from protomesh.ordering.v1.order_service_pb2_grpc import OrderServiceStub

from tests.edge_stand import EdgeStand
from tests.mesh import Mesh

ORIGIN = "https://shop.example"
GET_ORDER = "/protomesh.ordering.v1.OrderService/GetOrder"
ID = "0198f2a0-0000-7000-8000-000000000001"
WEB = {"content-type": "application/grpc-web+proto", "x-grpc-web": "1", "origin": ORIGIN}


def described(response: httpx.Response) -> tuple[int, str, str]:
    body = response.json()
    return response.status_code, body["details"][0]["reason"], body["message"]


@pytest.mark.parametrize(
    ("verb", "path", "expected"),
    [
        ("GET", "/v1/orders?foo=1", (400, "REQUEST_MALFORMED", 'field "foo"')),
        ("GET", "/v1/orders?limit=abc", (400, "REQUEST_MALFORMED", 'limit: invalid value "abc"')),
        ("GET", "/v1/nowhere", (404, "ROUTE_NOT_FOUND", "The path does not exist.")),
        ("PATCH", "/v1/orders", (405, "ROUTE_NOT_FOUND", "does not support this method")),
        ("POST", "/v1/orders", (400, "REQUEST_MALFORMED", "the body is not JSON")),
        ("POST", "/v1/orders?lines=", (400, "REQUEST_MALFORMED", "no query parameters")),
        ("PUT", f"/v1/projects/{ID}", (400, "REQUEST_MALFORMED", "the body is not JSON")),
    ],
)
async def test_an_error_says_what_is_wrong_and_a_page_may_read_it(
    stand: EdgeStand, verb: str, path: str, expected: tuple[int, str, str]
) -> None:
    content = b"{" if verb in ("POST", "PUT") else b""
    headers = {**stand.bearer(), "origin": ORIGIN}
    response = await stand.http.request(verb, path, content=content, headers=headers)
    status, reason, message = described(response)
    assert (status, reason) == expected[:2]
    assert expected[2] in message
    assert response.headers["access-control-allow-origin"] == ORIGIN


async def test_a_page_may_read_every_refusal_of_a_filter(stand: EdgeStand) -> None:
    async def large() -> AsyncIterator[bytes]:
        for _ in range(40):
            yield b" " * 65536

    refusals = {
        (401, "TOKEN_MISSING"): stand.http.get("/v1/orders", headers={"origin": ORIGIN}),
        (401, "TOKEN_INVALID"): stand.http.get(
            "/v1/orders", headers={"origin": ORIGIN, "authorization": "Bearer x"}
        ),
        (403, "REQUEST_REFUSED"): stand.http.get(
            "/v1/orders", headers={"origin": ORIGIN, "grpc-encoding": "gzip"}
        ),
        (431, "REQUEST_TOO_LARGE"): stand.http.get(
            "/v1/orders", headers={"origin": ORIGIN, "x-large": "x" * 9000}
        ),
        (413, "REQUEST_TOO_LARGE"): stand.http.post(
            "/v1/orders", content=large(), headers={**stand.bearer(), "origin": ORIGIN}
        ),
    }
    for expected, refusal in refusals.items():
        response = await refusal
        assert described(response)[:2] == expected
        assert response.headers["access-control-allow-origin"] == ORIGIN


@pytest.mark.parametrize("whole", [True, False])
async def test_a_body_too_large_for_a_small_rpc_is_refused_at_once(stand: EdgeStand, whole: bool) -> None:
    body = b'{"email": "' + b"x" * 100_000 + b'"}'

    async def pieces() -> AsyncIterator[bytes]:
        for at in range(0, len(body), 8192):
            yield body[at : at + 8192]

    started = time.monotonic()
    response = await stand.http.post("/v1/users/login", content=body if whole else pieces(), timeout=10)
    assert described(response)[:2] == (413, "REQUEST_TOO_LARGE")
    assert time.monotonic() - started < 5
    assert stand.upstream.received == []


async def refused(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    status = rpc_status.from_call(raised.value)  # type: ignore[arg-type]
    assert status is not None
    info = error_details_pb2.ErrorInfo()
    status.details[0].Unpack(info)
    return raised.value.code(), info.reason


async def test_a_native_request_that_is_too_large_is_refused_at_once(stand: EdgeStand) -> None:
    target, token = f"127.0.0.1:{stand.settings.port}", ("authorization", stand.bearer()["authorization"])
    too_large = (grpc.StatusCode.INVALID_ARGUMENT, "REQUEST_TOO_LARGE")
    async with grpc.aio.insecure_channel(target, [("grpc.enable_http_proxy", 0)]) as channel:
        async with asyncio.timeout(5):
            login = AuthServiceStub(channel).LoginUser(LoginUserRequest(email="x" * 2**20))
            assert await refused(login) == too_large
            order = OrderServiceStub(channel).GetOrder(GetOrderRequest(id="x" * 2**21), metadata=(token,))
            assert await refused(order) == too_large


async def test_an_escaped_slash_in_a_grpc_path_is_the_client_s_fault(stand: EdgeStand) -> None:
    target = f"127.0.0.1:{stand.settings.port}"
    async with grpc.aio.insecure_channel(target, [("grpc.enable_http_proxy", 0)]) as channel:
        call = channel.unary_unary("/protomesh.ordering.v1.OrderService%2fGetOrder", bytes, bytes)(b"")
        assert await refused(call) == (grpc.StatusCode.INVALID_ARGUMENT, "REQUEST_MALFORMED")


@pytest.mark.parametrize(
    ("path", "body", "with_token", "status"),
    [
        (GET_ORDER, b"", False, "16"),
        ("/protomesh.ordering.v1.OrderService/Nothing", b"", True, "12"),
        (GET_ORDER, b"\0" * 2**21, True, "3"),
    ],
)
@pytest.mark.parametrize("suffix", ["+proto", "-text"])
async def test_an_error_for_grpc_web_has_its_shape(
    stand: EdgeStand, path: str, body: bytes, with_token: bool, status: str, suffix: str
) -> None:
    token = stand.bearer() if with_token else {}
    kind = f"application/grpc-web{suffix}"
    headers = {**WEB, **token, "content-type": kind, "accept": kind}
    response = await stand.http.post(path, content=body and b"AAAA" * 2**19, headers=headers)
    assert (response.status_code, response.content) == (200, b"")
    assert response.headers["content-type"].startswith("application/grpc-web")
    assert response.headers["grpc-status"] == status
    assert "grpc-status-details-bin" in response.headers
    assert " " in response.headers["grpc-message"]
    assert response.headers["access-control-allow-origin"] == ORIGIN


async def test_health_checks_leave_no_trace(stand: EdgeStand) -> None:
    async def traced() -> str:
        return await stand.admin("/stats?filter=http.edge.tracing.random_sampling")

    before = await traced()
    await stand.http.get("/healthz")
    assert await traced() == before
    await stand.http.get("/v1/products")
    assert await traced() != before


async def test_who_fails_to_sign_in_too_often_is_told_when_to_come_back(mesh: Mesh) -> None:
    account = {"email": f"{secrets.token_hex(8)}@example.com", "password": "not the right one"}
    answers = [await mesh.http.post("/v1/users/login", json=account) for _ in range(7)]
    limited = [answer for answer in answers if answer.status_code == 429]
    assert limited
    assert {described(answer)[1] for answer in limited} == {"RATE_LIMITED"}
    assert all(int(answer.headers["retry-after"]) > 0 for answer in limited)
