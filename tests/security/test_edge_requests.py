"""The edge refuses what is malformed, oversized or ambiguous, always with the one envelope."""

import asyncio
import stat
from typing import Any

import httpx
import pytest

from chassis import contract
from tests.edge_stand import EdgeStand

ID = "0198f2a0-0000-7000-8000-000000000001"


def assert_refused(response: httpx.Response, status: int, reason: str) -> None:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert set(body) == {"code", "message", "details"}
    info = body["details"][0]
    assert info["@type"] == "type.googleapis.com/google.rpc.ErrorInfo"
    assert (info["reason"], info["domain"]) == (reason, "protomesh")


@pytest.mark.parametrize(
    "path", ["/", "/v1", "/v1/nowhere", "/v2/orders", "/admin", "/v1/orders/x/y", "/v1/orders/x:y"]
)
async def test_an_unknown_path_is_not_found(stand: EdgeStand, path: str) -> None:
    assert_refused(await stand.http.get(path, headers=stand.bearer()), 404, "ROUTE_NOT_FOUND")


async def test_no_internal_rpc_is_reached_by_any_path(stand: EdgeStand) -> None:
    for method in contract.platform():
        if method.access is None or method.access.kind != "internal":
            continue
        for content_type in ("application/json", "application/grpc", "application/grpc-web+proto"):
            headers = {**stand.bearer(), "content-type": content_type}
            response = await stand.http.post(method.path, content=b"", headers=headers)
            assert response.status_code == 404 or response.headers.get("grpc-status") == "12", method.path
    assert stand.upstream.received == []


@pytest.mark.parametrize("query", ["unknown=1", "user_id=x", "page.limit=3", "page=1&Page=2"])
async def test_an_unknown_query_parameter_is_refused(stand: EdgeStand, query: str) -> None:
    assert_refused(
        await stand.http.get(f"/v1/orders?{query}", headers=stand.bearer()), 400, "REQUEST_MALFORMED"
    )


@pytest.mark.parametrize("query", ["page=abc", "page=99999999999", "page=1.5"])
async def test_a_query_parameter_of_the_wrong_type_is_refused(stand: EdgeStand, query: str) -> None:
    assert_refused(
        await stand.http.get(f"/v1/orders?{query}", headers=stand.bearer()), 400, "REQUEST_MALFORMED"
    )


async def test_a_body_cannot_override_the_path(stand: EdgeStand) -> None:
    body = {"id": "0198f2a0-0000-7000-8000-00000000dead", "first_name": "Mallory"}
    response = await stand.http.put(f"/v1/users/{ID}", json=body, headers=stand.bearer())
    assert_refused(response, 400, "REQUEST_MALFORMED")
    assert stand.upstream.received == []


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[]",
        b"null x",
        b'"text"',
        b'{"lines": 3}',
        b'{"lines": [{"quantity": "many"}]}',
        b"\xff\xfe",
        b"a=b",
    ],
)
async def test_bad_json_is_refused(stand: EdgeStand, body: bytes) -> None:
    assert_refused(
        await stand.http.post("/v1/orders", content=body, headers=stand.bearer()), 400, "REQUEST_MALFORMED"
    )
    assert stand.upstream.received == []


async def test_a_body_nested_too_deep_is_refused(stand: EdgeStand) -> None:
    body = b'{"lines":' + b"[" * 5000 + b"]" * 5000 + b"}"
    assert_refused(
        await stand.http.post("/v1/orders", content=body, headers=stand.bearer()), 400, "REQUEST_MALFORMED"
    )


async def test_a_body_of_two_mebibytes_is_refused(stand: EdgeStand) -> None:
    body = b'{"shipping_note": "' + b"x" * 2 * 1024 * 1024 + b'"}'
    assert_refused(
        await stand.http.post("/v1/orders", content=body, headers=stand.bearer()), 413, "REQUEST_TOO_LARGE"
    )

    async def chunks() -> Any:
        for _ in range(64):
            yield b"x" * 32 * 1024

    response = await stand.http.post("/v1/orders", content=chunks(), headers=stand.bearer())
    assert_refused(response, 413, "REQUEST_TOO_LARGE")
    assert stand.upstream.received == []


@pytest.mark.parametrize("path", ["/v1/orders/..%2f..%2fadmin", "/v1/orders/a%5cb", "/v1/orders%2fx"])
async def test_an_escaped_slash_is_refused(stand: EdgeStand, path: str) -> None:
    assert_refused(await stand.http.get(path, headers=stand.bearer()), 400, "REQUEST_MALFORMED")


@pytest.mark.parametrize("path", ["/v1/products/../orders", "//v1//orders", "/v1/./orders"])
async def test_a_path_is_read_in_one_way(stand: EdgeStand, path: str) -> None:
    # Read as the public list it would need no token.
    assert "401" in await sent(stand, f"GET {path} HTTP/1.1\r\nhost: edge\r\n\r\n")


async def test_headers_that_are_too_many_or_too_large_are_refused(stand: EdgeStand) -> None:
    many = {f"x-{number}": "x" for number in range(70)}
    assert_refused(await stand.http.get("/v1/orders", headers=many), 431, "REQUEST_TOO_LARGE")
    large = {"x-large": "x" * 17 * 1024}
    assert_refused(await stand.http.get("/v1/orders", headers=large), 431, "REQUEST_TOO_LARGE")


async def test_a_header_with_an_underscore_is_refused(stand: EdgeStand) -> None:
    response = await stand.http.get("/v1/orders", headers={**stand.bearer(), "x_user_id": "admin"})
    assert_refused(response, 400, "REQUEST_MALFORMED")


async def test_a_compressed_message_is_refused(stand: EdgeStand) -> None:
    response = await stand.http.get("/v1/orders", headers={**stand.bearer(), "grpc-encoding": "gzip"})
    assert_refused(response, 403, "REQUEST_REFUSED")


async def test_grpc_framing_on_a_rest_path_is_refused(stand: EdgeStand) -> None:
    headers = {**stand.bearer(), "content-type": "application/grpc"}
    response = await stand.http.post("/v1/orders", content=b"\0\0\0\0\0", headers=headers)
    assert response.headers["grpc-status"] == "12"
    assert stand.upstream.received == []


@pytest.mark.parametrize(
    "request_text",
    [
        "POST /v1/orders HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST /v1/orders HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\ncontent-length: 5\r\n\r\nabcd",
        "GET /v1/orders HTTP/1.1\r\nhost: a\r\nx: y\x00z\r\n\r\n",
        "GET /v1/orders HTTP/1.0\r\nhost: a\r\n\r\n",
        "GET /v1/orders HTTP/1.1\r\n\r\n",
        "NONSENSE\r\n\r\n",
    ],
)
async def test_ambiguous_framing_ends_the_connection(stand: EdgeStand, request_text: str) -> None:
    answer = await sent(stand, request_text)
    assert answer == "" or int(answer.split()[1]) in (400, 426), answer
    assert stand.upstream.received == []


async def test_a_client_that_never_finishes_its_headers_is_dropped(stand: EdgeStand) -> None:
    started = asyncio.get_running_loop().time()
    answer = await sent(stand, "GET /v1/orders HTTP/1.1\r\nhost: a\r\n", patience=8)
    assert 4 < asyncio.get_running_loop().time() - started < 8
    assert "408" in answer


async def test_the_admin_interface_is_its_owner_s_alone(stand: EdgeStand) -> None:
    assert stat.S_IMODE(stand.settings.admin_socket.stat().st_mode) == 0o600
    for path in ("/config_dump", "/stats", "/quitquitquit"):
        assert (await stand.http.get(path)).status_code == 404


async def test_monitoring_reads_metrics_and_readiness_and_nothing_else(stand: EdgeStand) -> None:
    url = f"http://127.0.0.1:{stand.settings.metrics_port}"
    assert stand.settings.metrics_address == "127.0.0.1"
    async with httpx.AsyncClient(base_url=url) as monitor:
        assert "envoy_http_downstream_rq_total" in (await monitor.get("/stats/prometheus")).text
        assert (await monitor.get("/ready")).text == "LIVE\n"
        for path in (
            "/",
            "/config_dump",
            "/stats",
            "/clusters",
            "/ready/../quitquitquit",
            "/stats/prometheus/x",
        ):
            assert (await monitor.get(path)).status_code == 404
        for path in (
            "/quitquitquit",
            "/drain_listeners",
            "/logging?level=trace",
            "/ready",
            "/stats/prometheus",
        ):
            assert (await monitor.post(path)).status_code == 404
    assert await stand.answers()


async def sent(stand: EdgeStand, text: str, patience: float = 3) -> str:
    """What comes back for raw bytes until the edge closes, or after `patience` seconds."""
    reader, writer = await asyncio.open_connection("127.0.0.1", stand.settings.port)
    writer.write(text.encode("latin-1"))
    try:
        async with asyncio.timeout(patience):
            return (await reader.read(65536)).decode()
    finally:
        writer.close()
