"""What a REST client sees of the edge."""

import asyncio
import json
import re
from typing import Any

import pytest
import yaml
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status
from protomesh.ordering.v1.order_pb2 import Order
from protomesh.ordering.v1.order_service_pb2 import ListOrdersResponse
from protomesh.projects.v1.project_pb2 import Project

from meshctl.edge import rendering
from tests.edge_stand import Context, EdgeStand
from tests.patience import eventually

ORDERS = "/protomesh.ordering.v1.OrderService"
PROJECTS = "/protomesh.projects.v1.ProjectService"
ID = "0198f2a0-0000-7000-8000-000000000001"


def answers(message: Any, *headers: tuple[str, str]) -> Any:
    async def answer(request: Any, context: Context) -> Any:
        await context.send_initial_metadata(headers)
        return message

    return answer


async def test_a_request_reaches_its_rpc_and_its_answer_keeps_the_field_names(stand: EdgeStand) -> None:
    stand.upstream.answers[f"{ORDERS}/GetOrder"] = answers(Order(id=ID, buyer_id="user-1"))
    response = await stand.http.get(f"/v1/orders/{ID}", headers=stand.bearer())
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert response.json()["buyer_id"] == "user-1"
    assert stand.upstream.received[-1].request.id == ID
    assert stand.upstream.received[-1].workload == "edge"


async def test_creation_answers_201(stand: EdgeStand) -> None:
    stand.upstream.answers[f"{PROJECTS}/CreateProject"] = answers(Project(id=ID, name="Attic"))
    body = {"name": "Attic", "description": "", "status": "active"}
    response = await stand.http.post("/v1/projects", json=body, headers=stand.bearer())
    assert (response.status_code, response.json()["name"]) == (201, "Attic")
    assert "grpc-status" not in response.headers


async def test_empty_query_parameters_count_as_not_sent(stand: EdgeStand) -> None:
    response = await stand.http.get("/v1/projects?status=&search=&page=&limit=", headers=stand.bearer())
    assert response.status_code == 200
    assert stand.upstream.received[-1].request.ByteSize() == 0


async def test_a_parameter_beside_an_empty_one_is_kept(stand: EdgeStand) -> None:
    response = await stand.http.get("/v1/projects?status=&search=a%26b&page=2", headers=stand.bearer())
    assert response.status_code == 200
    request = stand.upstream.received[-1].request
    assert (request.search, request.page) == ("a&b", 2)


async def test_the_deadline_of_the_contract_goes_with_the_call(stand: EdgeStand) -> None:
    await stand.http.get(f"/v1/orders/{ID}", headers={**stand.bearer(), "grpc-timeout": "90S"})
    remaining = stand.upstream.received[-1].remaining
    assert remaining is not None
    assert 1 < remaining <= 2


async def test_an_error_of_a_service_keeps_status_reason_and_sentence(stand: EdgeStand) -> None:
    async def refuse(request: Any, context: Context) -> Any:
        status = status_pb2.Status(code=5, message="No such order.")
        status.details.add().Pack(error_details_pb2.ErrorInfo(reason="ORDER_NOT_FOUND", domain="protomesh"))
        await context.abort_with_status(rpc_status.to_status(status))

    stand.upstream.answers[f"{ORDERS}/GetOrder"] = refuse
    response = await stand.http.get(f"/v1/orders/{ID}", headers=stand.bearer())
    assert response.status_code == 404
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert (body["code"], body["message"]) == (5, "No such order.")
    assert body["details"][0]["reason"] == "ORDER_NOT_FOUND"
    assert body["details"][0]["@type"] == "type.googleapis.com/google.rpc.ErrorInfo"


async def test_headers_of_a_service_pass(stand: EdgeStand) -> None:
    stand.upstream.answers[f"{ORDERS}/GetOrder"] = answers(
        Order(), ("etag", '"7"'), ("idempotent-replayed", "true")
    )
    response = await stand.http.get(f"/v1/orders/{ID}", headers=stand.bearer())
    assert (response.headers["etag"], response.headers["idempotent-replayed"]) == ('"7"', "true")


async def test_a_change_is_answered_whatever_the_client_holds(stand: EdgeStand) -> None:
    stand.upstream.answers[f"{PROJECTS}/UpdateProject"] = answers(Project(id=ID, etag="7"), ("etag", '"7"'))
    for held in ("*", '"7"'):
        headers = stand.bearer() | {"if-none-match": held}
        response = await stand.http.put(f"/v1/projects/{ID}", json={"name": "Attic"}, headers=headers)
        assert (response.status_code, response.json()["etag"]) == (200, "7")


async def test_head_answers_what_get_would_but_the_body(stand: EdgeStand) -> None:
    stand.upstream.answers[f"{ORDERS}/ListOrders"] = answers(ListOrdersResponse(data=[Order(id=ID)]))
    got = await stand.http.get("/v1/orders", headers=stand.bearer())
    asked = await stand.http.head("/v1/orders", headers=stand.bearer())
    assert (asked.status_code, asked.content) == (200, b"")
    assert asked.headers["content-length"] == got.headers["content-length"]
    # The connection is still good: a body that was sent nevertheless would be taken for the next answer.
    assert (await stand.http.get("/v1/orders", headers=stand.bearer())).json() == got.json()


async def test_a_matching_etag_answers_304_without_a_body(stand: EdgeStand) -> None:
    stand.upstream.answers[f"{ORDERS}/GetOrder"] = answers(Order(id=ID), ("etag", '"7"'))
    for known, status in (('"7"', 304), ('W/"7"', 304), ('"6", "7"', 304), ("*", 304), ('"6"', 200)):
        response = await stand.http.get(
            f"/v1/orders/{ID}", headers={**stand.bearer(), "if-none-match": known}
        )
        assert (response.status_code, bool(response.content)) == (status, status == 200), known
        assert response.headers["etag"] == '"7"'


async def test_public_answers_may_be_kept_as_long_as_the_contract_says_and_others_not(
    stand: EdgeStand,
) -> None:
    public = await stand.http.get("/.well-known/jwks.json")
    assert public.headers["cache-control"] == "public, max-age=300"
    private = await stand.http.get("/v1/orders", headers=stand.bearer())
    assert private.headers["cache-control"] == "no-store"


async def test_an_error_is_never_kept(stand: EdgeStand) -> None:
    response = await stand.http.get("/.well-known/jwks.json?unknown=1")
    assert (response.status_code, response.headers["cache-control"]) == (400, "no-store")


async def test_a_method_that_a_path_does_not_take_is_405_and_named(stand: EdgeStand) -> None:
    response = await stand.http.patch("/v1/orders", headers=stand.bearer())
    assert (response.status_code, response.headers["allow"]) == (405, "GET, HEAD, POST, OPTIONS")
    assert response.json()["details"][0]["reason"] == "ROUTE_NOT_FOUND"
    assert (await stand.http.options("/v1/orders")).headers["allow"] == "GET, HEAD, POST, OPTIONS"


async def test_pages_of_a_listed_origin_may_call_and_others_not(stand: EdgeStand) -> None:
    def asking(origin: str) -> dict[str, str]:
        return {"origin": origin, "access-control-request-method": "POST"}

    listed = await stand.http.options("/v1/orders", headers=asking("https://shop.example"))
    assert listed.headers["access-control-allow-origin"] == "https://shop.example"
    assert "idempotency-key" in listed.headers["access-control-allow-headers"]
    other = await stand.http.options("/v1/orders", headers=asking("https://evil.example"))
    assert "access-control-allow-origin" not in other.headers
    refused = await stand.http.get("/v1/orders", headers={"origin": "https://shop.example"})
    assert refused.status_code == 401
    assert refused.headers["access-control-allow-origin"] == "https://shop.example", (
        "a page must see its errors"
    )


async def test_a_stream_arrives_as_server_sent_events_one_by_one(stand: EdgeStand) -> None:
    second = asyncio.Event()

    async def watch(request: Any, context: Context) -> None:
        await context.write(Order(id=ID, version=1))
        await second.wait()
        await context.write(Order(id=ID, version=2))

    stand.upstream.streams[f"{ORDERS}/WatchOrder"] = watch
    async with stand.http.stream("GET", f"/v1/orders/{ID}:watch", headers=stand.bearer()) as response:
        assert response.headers["content-type"] == "text/event-stream"
        lines = (line async for line in response.aiter_lines() if line)
        assert json.loads((await anext(lines)).removeprefix("data: "))["version"] == 1
        second.set()
        assert json.loads((await anext(lines)).removeprefix("data: "))["version"] == 2


async def test_every_answer_has_the_trace_and_the_protective_headers(stand: EdgeStand) -> None:
    for path in ("/v1/orders", "/nowhere"):
        response = await stand.http.get(path, headers=stand.bearer())
        assert len(response.headers["trace-id"]) == 32
        assert response.headers["x-request-id"]
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["x-frame-options"] == "DENY"
        assert "server" not in response.headers
        assert not [name for name in response.headers if name.startswith(("x-envoy", "grpc-", "accept-"))]
    sent = stand.upstream.received[-1].metadata["traceparent"]
    traced = await stand.http.get("/v1/orders", headers=stand.bearer())
    assert sent.split("-")[1] != traced.headers["trace-id"]
    assert stand.upstream.received[-1].metadata["traceparent"].split("-")[1] == traced.headers["trace-id"]


async def test_the_access_log_has_route_and_trace_and_no_query(stand: EdgeStand) -> None:
    response = await stand.http.get("/v1/products?search=a-secret-wish")
    trace_id = response.headers["trace-id"]
    log = stand.directory / "envoy.log"
    await eventually(lambda: trace_id in log.read_text(), within=10)
    (line,) = (line for line in log.read_text().splitlines() if trace_id in line)
    entry = json.loads(line)
    assert (entry["method"], entry["path"], entry["status"]) == ("GET", "/v1/products", 200)
    assert entry["route"] == "protomesh.catalog.v1.ProductService.ListProducts"
    assert "secret" not in line


async def test_envoys_allocator_keeps_free_memory_for_each_core(stand: EdgeStand) -> None:
    if not rendering.environment():
        pytest.skip("only on Linux before 6.19")
    report = await stand.admin("/memory/tcmalloc")
    kept = re.search(r"(\d+) \(.*\) Bytes in per-CPU cache freelist", report)
    assert kept is not None
    assert int(kept[1]) > 0


async def test_the_api_is_described_where_it_is_served(stand: EdgeStand) -> None:
    response = await stand.http.get("/openapi.yaml")
    assert (response.status_code, response.headers["content-type"]) == (200, "application/yaml")
    assert "/v1/orders" in yaml.safe_load(response.text)["paths"]


async def test_the_mesh_is_ready(stand: EdgeStand) -> None:
    async def ready() -> bool:
        return (await stand.http.get("/readyz")).status_code == 200

    await eventually(ready, within=10)
