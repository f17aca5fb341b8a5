"""What Prometheus reads from each process: names, labels, and numbers that move with what happens."""

import re
from collections.abc import Iterable

import httpx
import psycopg
import pytest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from chassis import contract
from chassis.contract import MethodContract
from tests.mesh import Mesh, User
from tests.patience import eventually
from tests.shop import Shop

SERVICES = ("catalog", "identity", "observer", "ordering", "projects", "ratelimit")
WITH_DATABASE = ("catalog", "identity", "ordering", "projects")
RPC_LABELS = {"grpc_service", "grpc_method"}
# Every label that a metric of ours may have, and nothing that grows with users or requests.
LABELS = {
    "grpc_service",
    "grpc_method",
    "grpc_code",
    "le",
    "database",
    "bulkhead",
    "state",
    "consumer",
    "outcome",
}
IDENTIFIER = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}|@|/v1/")


class Scrape:
    """What one process told at one moment."""

    def __init__(self, text: str) -> None:
        self.samples = [
            sample for family in text_string_to_metric_families(text) for sample in family.samples
        ]

    def all(self, name: str, **labels: str) -> Iterable[Sample]:
        return [
            sample
            for sample in self.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        ]

    def value(self, name: str, **labels: str) -> float:
        """The sum of all samples with these labels; 0 when there are none."""
        return sum(sample.value for sample in self.all(name, **labels))


async def scrape(mesh: Mesh, service: str) -> Scrape:
    """What the first worker of a service, or the edge, tells Prometheus."""
    name = service if service == "edge" else f"{service}-1"
    (url,) = (state["metrics_url"] for state in mesh.status() if state["name"] == name)
    async with httpx.AsyncClient(trust_env=False) as client:
        answer = await client.get(url)
    assert answer.status_code == 200
    return Scrape(answer.text)


def rpc(method: MethodContract) -> dict[str, str]:
    return {"grpc_service": method.service, "grpc_method": method.name}


LIST_ORDERS = contract.method_at("/protomesh.ordering.v1.OrderService/ListOrders")
GET_ORDER = contract.method_at("/protomesh.ordering.v1.OrderService/GetOrder")
WATCH_ORDER = contract.method_at("/protomesh.ordering.v1.OrderService/WatchOrder")
RESERVE_STOCK = contract.method_at("/protomesh.catalog.v1.InventoryService/ReserveStock")


@pytest.mark.parametrize("service", SERVICES)
async def test_each_process_tells_rate_errors_duration_and_load_of_each_of_its_rpcs(
    mesh: Mesh, service: str
) -> None:
    told = await scrape(mesh, service)
    for method in (method for method in contract.platform() if method.deployable == service):
        assert told.all("grpc_server_in_flight", **rpc(method))
        assert told.all("grpc_server_handling_seconds_bucket", **rpc(method), le="+Inf")
        assert told.all("grpc_server_handling_seconds_count", **rpc(method))
    for name in ("process_resident_memory_bytes", "process_cpu_seconds_total"):
        assert told.value(name) > 0


@pytest.mark.parametrize("service", WITH_DATABASE)
async def test_a_process_with_a_database_tells_of_its_pool_and_its_outbox(mesh: Mesh, service: str) -> None:
    told = await scrape(mesh, service)
    assert told.value("database_pool_connections", database=service) >= 1
    assert {sample.labels["state"] for sample in told.all("database_pool_connections")} == {"idle", "used"}
    assert told.all("database_pool_waiting", database=service)
    assert told.all("outbox_lag_seconds", database=service)
    assert told.all("outbox_lag_events", database=service)


@pytest.mark.parametrize("service", SERVICES)
async def test_no_label_grows_with_users_or_requests(
    mesh: Mesh, shop: Shop, anna: User, service: str
) -> None:
    await mesh.http.get("/v1/orders/0198f2a0-0000-7000-8000-000000000001", headers=anna.headers)
    for sample in (await scrape(mesh, service)).samples:
        if not sample.name.startswith(("python_", "process_")):
            assert sample.labels.keys() <= LABELS, sample
        assert not [value for value in sample.labels.values() if IDENTIFIER.search(value)], sample


async def test_calls_are_counted_by_how_they_end_and_timed(mesh: Mesh, anna: User) -> None:
    before = await scrape(mesh, "ordering")
    for _ in range(3):
        assert (await mesh.http.get("/v1/orders", headers=anna.headers)).status_code == 200
    missing = "/v1/orders/0198f2a0-0000-7000-8000-000000000001"
    assert (await mesh.http.get(missing, headers=anna.headers)).status_code == 404
    after = await scrape(mesh, "ordering")

    def grown(name: str, method: MethodContract, **labels: str) -> float:
        return after.value(name, **rpc(method), **labels) - before.value(name, **rpc(method), **labels)

    assert grown("grpc_server_handled_total", LIST_ORDERS, grpc_code="OK") == 3
    assert grown("grpc_server_handled_total", GET_ORDER, grpc_code="NOT_FOUND") == 1
    assert grown("grpc_server_handling_seconds_count", LIST_ORDERS) == 3
    assert grown("grpc_server_handling_seconds_bucket", LIST_ORDERS, le="+Inf") == 3
    assert 0 < grown("grpc_server_handling_seconds_sum", LIST_ORDERS) < 30


async def test_calls_of_a_service_to_others_are_counted_too(mesh: Mesh, shop: Shop, anna: User) -> None:
    product, name = await shop.new_product(units=1), "grpc_client_handled_total"
    before = (await scrape(mesh, "ordering")).value(name, **rpc(RESERVE_STOCK), grpc_code="OK")
    await shop.ordered(anna, {product: 1})
    told = await scrape(mesh, "ordering")
    assert told.value(name, **rpc(RESERVE_STOCK), grpc_code="OK") == before + 1
    assert told.value("grpc_client_in_flight", **rpc(RESERVE_STOCK)) == 0


async def test_a_call_is_in_flight_until_it_ends(mesh: Mesh, shop: Shop, anna: User) -> None:
    order = await shop.ordered(anna, {await shop.new_product(units=1): 1})
    before = (await scrape(mesh, "ordering")).value("grpc_server_in_flight", **rpc(WATCH_ORDER))
    async with mesh.http.stream("GET", f"/v1/orders/{order['id']}:watch", headers=anna.headers) as watched:
        await anext(watched.aiter_lines())
        during = (await scrape(mesh, "ordering")).value("grpc_server_in_flight", **rpc(WATCH_ORDER))
        assert during == before + 1

    async def ended() -> bool:
        return (await scrape(mesh, "ordering")).value("grpc_server_in_flight", **rpc(WATCH_ORDER)) == before

    await eventually(ended)


async def test_events_are_counted_and_their_lag_is_known(mesh: Mesh, shop: Shop, anna: User) -> None:
    name, consumer = "consumer_events_total", {"consumer": "catalog.release_stock"}
    before = (await scrape(mesh, "catalog")).value(name, **consumer, outcome="handled")
    order = await shop.ordered(anna, {await shop.new_product(units=1): 1})
    assert (await shop.cancel(anna, order["id"])).status_code == 200

    async def handled() -> bool:
        told = await scrape(mesh, "catalog")
        lag = list(told.all("consumer_lag_events", **consumer))
        return told.value(name, **consumer, outcome="handled") > before and len(lag) == 1

    await eventually(handled)


async def test_an_event_that_waits_in_the_outbox_shows_as_lag(mesh: Mesh, shop: Shop, anna: User) -> None:
    order = await shop.ordered(anna, {await shop.new_product(units=1): 1})
    url = mesh.database_url("ordering")
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        # As long as somebody else has the relay's lock, nothing is sent.
        await connection.execute("SELECT pg_advisory_lock(%s)", (0x6F7574626F78,))
        assert (await shop.cancel(anna, order["id"])).status_code == 200

        async def lags() -> bool:
            told = await scrape(mesh, "ordering")
            return told.value("outbox_lag_events") >= 1 and told.value("outbox_lag_seconds") > 0

        await eventually(lags)

    async def sent() -> bool:
        return (await scrape(mesh, "ordering")).value("outbox_lag_events") == 0

    await eventually(sent)


async def test_the_edge_tells_of_its_requests_and_upstreams(mesh: Mesh) -> None:
    before = await scrape(mesh, "edge")
    await mesh.http.get("/v1/products")
    after = await scrape(mesh, "edge")
    name, labels = "envoy_http_downstream_rq_total", {"envoy_http_conn_manager_prefix": "edge"}
    assert after.value(name, **labels) > before.value(name, **labels)
    assert after.value("envoy_cluster_membership_healthy", envoy_cluster_name="ordering") == 1
