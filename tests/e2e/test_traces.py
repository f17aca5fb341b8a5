"""What a request leaves behind: one trace from the edge to the last statement, and who may read it."""

import asyncio
import secrets
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import psycopg
import pytest

from tests.mesh import Mesh, User
from tests.shop import Shop, reason_of
from tests.traces import Trace, Traces, hop

ORDERS, INVENTORY = "protomesh.ordering.v1.OrderService", "protomesh.catalog.v1.InventoryService"
CANCELLED = "protomesh.ordering.v1.OrderCancelled"
QUIET_SECONDS = 5.0
# Clocks of several processes on one machine, and times that are rounded on their way.
CLOCK_MS = 2.0


@pytest.fixture(scope="module")
def traces(mesh: Mesh) -> Traces:
    return Traces(mesh)


def milliseconds(moment: str) -> float:
    """The time of day in an RFC 3339 timestamp, which Python's datetime would cut to microseconds."""
    hours, minutes, seconds = moment.rstrip("Z").rpartition("T")[2].split(":")
    return (int(hours) * 3600 + int(minutes) * 60 + float(seconds)) * 1000


def assert_timed(trace: Trace) -> None:
    """Every hop took some time, and began no earlier than the one that caused it."""
    for span in trace.spans:
        assert span["duration_ms"] > 0, span
        if span["parent_span_id"]:
            caused = milliseconds(span["started_at"]) - milliseconds(trace.parent(span)["started_at"])
            assert caused >= -CLOCK_MS, (hop(trace.parent(span)), hop(span))


async def test_an_order_is_one_trace_from_the_edge_over_ordering_and_catalog_to_sql(
    mesh: Mesh, shop: Shop, traces: Traces, anna: User
) -> None:
    placed = await shop.place(anna, {await shop.new_product(units=5): 2})
    assert placed.status_code == 201, placed.text
    reserve = f"{INVENTORY}/ReserveStock"
    trace = await traces.of(placed, ("catalog", "server", reserve), ("ordering", "client", "SQL COMMIT"))

    reserved = trace.one("catalog", "server", reserve)
    assert trace.way(reserved) == [
        ("edge", "server", "POST /v1/orders"),
        ("edge", "client", "router ordering egress"),
        ("ordering", "server", f"{ORDERS}/PlaceOrder"),
        ("ordering", "client", reserve),
        ("catalog", "server", reserve),
    ]
    assert any("reservations" in statement for statement in trace.statements_of(reserved))
    placing = trace.statements_of(trace.one("ordering", "server", f"{ORDERS}/PlaceOrder"))
    assert any("INSERT INTO orders" in statement for statement in placing)
    assert placing[-1] == "COMMIT"
    assert len(trace.roots) == 1
    assert_timed(trace)


async def test_a_cancellation_is_one_trace_over_outbox_and_broker_to_the_consumers_sql(
    mesh: Mesh, shop: Shop, traces: Traces, anna: User
) -> None:
    order = await shop.ordered(anna, {await shop.new_product(units=5): 2})
    cancelled = await shop.cancel(anna, order["id"])
    assert cancelled.status_code == 200, cancelled.text
    consumed = ("catalog", "consumer", f"process {CANCELLED}")
    trace = await traces.of(cancelled, consumed, ("ordering", "producer", f"publish {CANCELLED}"))

    consumer, producer = trace.one(*consumed), trace.one("ordering", "producer", f"publish {CANCELLED}")
    assert trace.way(consumer) == [
        ("edge", "server", "POST /v1/orders/{id}:cancel"),
        ("edge", "client", "router ordering egress"),
        ("ordering", "server", f"{ORDERS}/CancelOrder"),
        ("ordering", "producer", f"publish {CANCELLED}"),
        consumed,
    ]
    assert any(
        "INSERT INTO outbox" in statement
        for statement in trace.statements_of(trace.one("ordering", "server", f"{ORDERS}/CancelOrder"))
    )
    assert any("available" in statement for statement in trace.statements_of(consumer))
    assert trace.statements_of(consumer)[-1] == "COMMIT"
    assert consumer["attributes"]["messaging.consumer.group.name"] == "catalog.release_stock"
    for name in ("messaging.message.id", "messaging.destination.name"):
        assert consumer["attributes"][name] == producer["attributes"][name]
    assert len(trace.roots) == 1
    assert_timed(trace)


@pytest.mark.parametrize("flags", ["01", "00"])
async def test_a_client_neither_chooses_its_trace_nor_hides_from_it(
    mesh: Mesh, traces: Traces, flags: str
) -> None:
    chosen = secrets.token_hex(16)
    header = {"traceparent": f"00-{chosen}-{secrets.token_hex(8)}-{flags}", "tracestate": "vendor=1"}
    answer = await mesh.http.get("/v1/products", headers=header)
    assert answer.headers["trace-id"] != chosen
    await traces.of(answer, ("catalog", "server", "protomesh.catalog.v1.ProductService/ListProducts"))
    assert (await traces.get(f"/v1/observer/traces/{chosen}")).status_code == 404


async def test_a_damaged_traceparent_costs_no_trace(mesh: Mesh, traces: Traces) -> None:
    answer = await mesh.http.get("/v1/products", headers={"traceparent": "what is this"})
    await traces.of(answer, ("catalog", "server", "protomesh.catalog.v1.ProductService/ListProducts"))


@asynccontextmanager
async def without_categories(mesh: Mesh) -> AsyncIterator[None]:
    """The catalog's database as a migration gone wrong would leave it."""
    url = mesh.database_url("catalog")
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        await connection.execute("ALTER TABLE categories RENAME TO lost")
        try:
            yield
        finally:
            await connection.execute("ALTER TABLE lost RENAME TO categories")


async def test_a_call_that_fails_marks_every_hop_that_it_failed_at(mesh: Mesh, traces: Traces) -> None:
    method = "protomesh.catalog.v1.CategoryService/GetCategoryTree"
    async with without_categories(mesh):
        answer = await mesh.http.get("/v1/categories:tree")
    assert answer.status_code == 500, answer.text
    trace = await traces.of(answer, ("catalog", "server", method), ("catalog", "client", "SQL SELECT"))
    failed = {hop(span): span["error_message"] for span in trace.spans if span["error"]}
    assert failed["catalog", "client", "SQL SELECT"] == "UndefinedTable"
    assert failed["catalog", "server", method] == "INTERNAL"
    assert ("edge", "client", "router catalog egress") in failed
    assert ("edge", "server", "GET /v1/categories:tree") in failed
    assert trace.roots[0]["attributes"]["http.status_code"] == "500"


async def test_a_refusal_is_no_fault_of_the_server_that_refused(
    mesh: Mesh, shop: Shop, traces: Traces, anna: User
) -> None:
    refused = await shop.place(anna, {str(uuid.uuid4()): 1})
    assert reason_of(refused) == "PRODUCT_NOT_FOR_SALE"
    method = f"{INVENTORY}/ReserveStock"
    trace = await traces.of(refused, ("catalog", "server", method))
    asked, answered = trace.one("ordering", "client", method), trace.one("catalog", "server", method)
    assert asked["attributes"]["rpc.response.status_code"] == "FAILED_PRECONDITION"
    assert answered["attributes"]["rpc.response.status_code"] == "FAILED_PRECONDITION"
    assert (asked["error"], answered["error"]) == (True, False)


async def test_a_search_is_in_no_span(mesh: Mesh, traces: Traces) -> None:
    wish = f"wish{secrets.token_hex(6)}"
    answer = await mesh.http.get("/v1/products", params={"search": wish})
    trace = await traces.of(answer, ("catalog", "client", "SQL SELECT"))
    assert trace.roots[0]["attributes"]["url.path"] == "/v1/products"
    assert wish not in str(trace.spans)


@pytest.mark.parametrize("path", ["/v1/observer/traces", f"/v1/observer/traces/{'a' * 32}"])
async def test_only_staff_reads_traces(mesh: Mesh, anna: User, path: str) -> None:
    nobody, customer = await mesh.http.get(path), await mesh.http.get(path, headers=anna.headers)
    assert (nobody.status_code, reason_of(nobody)) == (401, "TOKEN_MISSING")
    assert (customer.status_code, reason_of(customer)) == (403, "PERMISSION_MISSING")


async def project_traces(mesh: Mesh, traces: Traces, anna: User, count: int) -> list[str]:
    """So many new traces `POST /v1/projects`, all of which have arrived; their ids."""
    body = {"name": "Attic", "description": "", "status": "active"}
    answers = [await mesh.http.post("/v1/projects", json=body, headers=anna.headers) for _ in range(count)]
    for answer in answers:
        assert answer.status_code == 201, answer.text
        await traces.of(answer, ("projects", "client", "SQL COMMIT"))
    return [answer.headers["trace-id"] for answer in answers]


async def test_traces_are_listed_newest_first_by_what_they_are_about(
    mesh: Mesh, traces: Traces, anna: User
) -> None:
    made = await project_traces(mesh, traces, anna, 3)
    found = (await traces.listed(search="post /V1/PROJECTS", service="projects"))["data"]
    assert {trace["trace_id"] for trace in found[:3]} == set(made)
    began = [trace["started_at"] for trace in found]
    assert began == sorted(began, reverse=True)
    for trace in found:
        assert trace["name"] == "POST /v1/projects"
        assert {"edge", "projects"} <= set(trace["services"])
        assert trace["span_count"] >= 3
    assert (await traces.listed(search="POST /v1/projects", service="catalog"))["data"] == []
    assert (await traces.listed(search="POST /v1/projects", min_duration_ms=60_000))["data"] == []


async def test_errors_can_be_listed_alone(mesh: Mesh, traces: Traces, anna: User) -> None:
    missing = await mesh.http.get(f"/v1/projects/{anna.id}", headers=anna.headers)
    await traces.of(missing, ("edge", "client", "router projects egress"))
    found = (await traces.listed(only_errors="true", limit=100))["data"]
    assert missing.headers["trace-id"] in {trace["trace_id"] for trace in found}
    assert all(trace["error_count"] > 0 for trace in found)


async def test_pages_of_traces_neither_repeat_nor_skip_while_new_ones_arrive(
    mesh: Mesh, traces: Traces, anna: User
) -> None:
    await project_traces(mesh, traces, anna, 4)
    first = await traces.listed(search="POST /v1/projects", limit=2)
    assert (len(first["data"]), first["meta"]["limit"], first["meta"]["page"]) == (2, 2, 1)
    await project_traces(mesh, traces, anna, 1)
    cursor = first["meta"]["next_cursor"]
    second = await traces.listed(search="POST /v1/projects", limit=2, cursor=cursor)
    assert second["meta"]["total"] == first["meta"]["total"] + 1
    both = [trace["trace_id"] for page in (first, second) for trace in page["data"]]
    whole = await traces.listed(search="POST /v1/projects", limit=5)
    assert [trace["trace_id"] for trace in whole["data"]][1:] == both


async def test_a_page_of_traces_is_bounded_and_a_cursor_belongs_to_its_list(
    mesh: Mesh, traces: Traces, anna: User
) -> None:
    assert (await traces.listed(limit=1000))["meta"]["limit"] == 100
    await project_traces(mesh, traces, anna, 2)
    cursor = (await traces.listed(search="POST /v1/projects", limit=1))["meta"]["next_cursor"]
    for query in ({"search": "DELETE"}, {"cursor": cursor[:-2]}, {"limit": -1}, {"min_duration_ms": "NaN"}):
        answer = await traces.get("/v1/observer/traces", **{"cursor": cursor, **query})
        assert answer.status_code == 400, query


@pytest.mark.parametrize("trace_id", ["1", "A" * 32, "g" * 32, "a" * 33])
async def test_what_is_no_trace_id_is_refused(traces: Traces, trace_id: str) -> None:
    answer = await traces.get(f"/v1/observer/traces/{trace_id}")
    assert (answer.status_code, reason_of(answer)) == (400, "VALIDATION_FAILED")


async def test_a_trace_that_is_not_kept_is_not_found(traces: Traces) -> None:
    answer = await traces.get(f"/v1/observer/traces/{secrets.token_hex(16)}")
    assert (answer.status_code, reason_of(answer)) == (404, "TRACE_NOT_FOUND")


async def names_of(traces: Traces) -> dict[str, str]:
    return {trace["trace_id"]: trace["name"] for trace in (await traces.listed(limit=100))["data"]}


async def test_a_mesh_at_rest_makes_no_traces(mesh: Mesh, traces: Traces) -> None:
    await mesh.healthy()
    # What was asked before arrives within a second or two.
    before: dict[str, str] = {}
    async with asyncio.timeout(30):
        while (now := await names_of(traces)) != before:
            before = now
            await asyncio.sleep(2)
    await asyncio.sleep(QUIET_SECONDS)
    assert {name for trace_id, name in (await names_of(traces)).items() if trace_id not in before} == set()


async def test_looking_at_traces_and_fetching_keys_makes_none(mesh: Mesh, traces: Traces) -> None:
    watched: list[httpx.Response] = [await traces.get("/v1/observer/traces") for _ in range(3)]
    watched.append(await traces.get(f"/v1/observer/traces/{'a' * 32}"))
    watched.append(await mesh.http.get("/.well-known/jwks.json"))
    # Spans of what came later are here, so those of the others would be.
    later = await mesh.http.get("/v1/products")
    await traces.of(later, ("catalog", "server", "protomesh.catalog.v1.ProductService/ListProducts"))
    kept = await names_of(traces)
    assert not {answer.headers["trace-id"] for answer in watched} & set(kept)
