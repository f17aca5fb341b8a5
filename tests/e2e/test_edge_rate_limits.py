"""Limits at the edge: those of the contracts over all edges, and the coarse one of each edge."""

import asyncio
import os
import secrets
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from protomesh.identity.v1.auth_service_pb2 import LoginUserRequest
from protomesh.identity.v1.auth_service_pb2_grpc import AuthServiceStub
from protomesh.ratelimit.v3.ratelimit_pb2 import RateLimitResponse

from chassis import contract
from chassis.rpc import Call
from meshctl.core.ports import Ports
from services.ratelimit.counters import Counters
from services.ratelimit.quotas import ADDRESS, CALLER, Quota, Quotas
from services.ratelimit.ratelimit_service import RateLimitService
from tests.edge_stand import RATE_LIMIT, Context, EdgeStand, edge_stand

LOGIN = "/protomesh.identity.v1.AuthService/LoginUser"
PLACE = "/protomesh.ordering.v1.OrderService/PlaceOrder"
HOUR = RateLimitResponse.RateLimit.HOUR
CREDENTIALS = {"email": "anna@example.com", "password": "correct horse"}


@pytest.fixture
async def limiter(valkey_url: str) -> AsyncIterator[Any]:
    """The real rate limiter, with quotas of three and a clock that stands."""
    moment = 3600.0 * secrets.randbelow(10**9)
    counters = Counters(valkey_url, lambda: moment)
    quotas = {(PLACE, CALLER): Quota(3, 3600, HOUR, True), (LOGIN, ADDRESS): Quota(3, 3600, HOUR, True)}
    service = RateLimitService(Quotas(quotas), counters)
    call = Call(contract.method_at(RATE_LIMIT), {})

    async def answer(request: Any, context: Context) -> RateLimitResponse:
        return await service.ShouldRateLimit(request, call)

    yield answer
    await counters.close()


async def test_a_callers_quota_holds_and_the_answer_says_when_to_come_back(
    stand: EdgeStand, limiter: Any
) -> None:
    stand.upstream.answers[RATE_LIMIT] = limiter
    passed = [
        await stand.http.post("/v1/orders", json={}, headers=stand.bearer(sub="anna")) for _ in range(3)
    ]
    assert [response.headers["ratelimit-remaining"] for response in passed] == ["2", "1", "0"]
    refused = await stand.http.post("/v1/orders", json={}, headers=stand.bearer(sub="anna"))
    assert refused.status_code == 429
    assert refused.headers["retry-after"] == "3600"
    assert refused.headers["ratelimit-limit"] == "3"
    body = refused.json()
    assert body["code"] == 8
    assert body["details"][0]["reason"] == "RATE_LIMITED"
    assert body["details"][1] == {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retry_delay": "3600s"}
    assert len(stand.upstream.received) == 3
    other = await stand.http.post("/v1/orders", json={}, headers=stand.bearer(sub="bert"))
    assert other.status_code == 201


async def test_an_addresss_quota_holds_over_two_edges(
    stand: EdgeStand, limiter: Any, tmp_path: Path, edge_certificates: Path
) -> None:
    async with edge_stand(tmp_path, edge_certificates) as second:
        for edge in (stand, second):
            edge.upstream.answers[RATE_LIMIT] = limiter
        statuses = [
            (await edge.http.post("/v1/users/login", json=CREDENTIALS)).status_code
            for edge in (stand, second, stand, second, stand)
        ]
    assert statuses == [200, 200, 200, 429, 429]


async def test_a_client_cannot_choose_its_address(stand: EdgeStand, limiter: Any) -> None:
    stand.upstream.answers[RATE_LIMIT] = limiter
    for number in range(4):
        headers = {
            "x-forwarded-for": f"203.0.113.{number}",
            "x-envoy-external-address": f"203.0.113.{number}",
        }
        response = await stand.http.post("/v1/users/login", json=CREDENTIALS, headers=headers)
    assert response.status_code == 429
    assert {call.metadata["x-forwarded-for"] for call in stand.upstream.received} == {"127.0.0.1"}


async def test_behind_our_own_balancer_its_word_is_the_address(
    tmp_path: Path, edge_certificates: Path
) -> None:
    async with edge_stand(tmp_path, edge_certificates, trusted_proxies=1) as edge:
        spoofed = {"x-forwarded-for": "198.51.100.1, 203.0.113.9"}
        await edge.http.post("/v1/users/login", json=CREDENTIALS, headers=spoofed)
        assert edge.upstream.received[-1].metadata["x-forwarded-for"] == "203.0.113.9"
        counted = edge.upstream.asked[-1].request.descriptors[0].entries[1].value
        assert counted == "203.0.113.9/32"


async def test_a_grpc_client_is_told_with_resource_exhausted(stand: EdgeStand, limiter: Any) -> None:
    stand.upstream.answers[RATE_LIMIT] = limiter
    target = f"127.0.0.1:{stand.settings.port}"
    async with grpc.aio.insecure_channel(target, [("grpc.enable_http_proxy", 0)]) as channel:
        stub = AuthServiceStub(channel)
        for _ in range(3):
            await stub.LoginUser(LoginUserRequest(**CREDENTIALS))
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.LoginUser(LoginUserRequest(**CREDENTIALS))
    assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    status = rpc_status.from_call(refused.value)  # type: ignore[arg-type]
    assert status is not None
    retry = error_details_pb2.RetryInfo()
    assert status.details[1].Unpack(retry)
    assert retry.retry_delay == Duration(seconds=1)


async def test_only_routes_with_a_quota_ask_the_limiter(stand: EdgeStand) -> None:
    await stand.http.get("/v1/orders", headers=stand.bearer())
    assert stand.upstream.asked == []


async def test_without_the_limiter_requests_pass(tmp_path: Path, edge_certificates: Path) -> None:
    async with edge_stand(tmp_path, edge_certificates, without=["ratelimit"]) as edge:
        response = await edge.http.post("/v1/users/login", json=CREDENTIALS)
        assert response.status_code == 200


async def test_one_address_cannot_flood_an_edge(tmp_path: Path, edge_certificates: Path) -> None:
    async with edge_stand(
        tmp_path, edge_certificates, address_burst=5, address_requests_per_second=1
    ) as edge:
        responses = [await edge.http.get("/v1/orders") for _ in range(12)]
    refused = [response for response in responses if response.status_code == 429]
    assert len(refused) >= 5
    assert refused[0].headers["retry-after"] == "1"
    assert refused[0].json()["details"][0]["reason"] == "RATE_LIMITED"


async def test_the_deployable_itself_answers_the_edge(
    valkey_url: str, tmp_path: Path, edge_certificates: Path
) -> None:
    port = Ports().take()
    async with (
        limiter_process(port, valkey_url, edge_certificates),
        edge_stand(tmp_path, edge_certificates, targets={"ratelimit": f"ipv4:127.0.0.1:{port}"}) as edge,
    ):
        response = await edge.http.post("/v1/users/login", json=CREDENTIALS)
    assert response.status_code == 200
    assert int(response.headers["ratelimit-remaining"]) < int(response.headers["ratelimit-limit"])


@asynccontextmanager
async def limiter_process(port: int, valkey_url: str, certificates: Path) -> AsyncIterator[None]:
    settings = {"port": port, "metrics_port": 0, "valkey_url": valkey_url, "tls_directory": certificates}
    environment = {f"PROTOMESH_{name.upper()}": str(value) for name, value in settings.items()}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "services.ratelimit",
        env={**os.environ, **environment},
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(60):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                except OSError:
                    await asyncio.sleep(0.1)
                else:
                    writer.close()
                    break
        yield
    finally:
        process.kill()
        await process.wait()
