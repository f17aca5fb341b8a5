"""What an operator does at the terminal: traces, calls, dead letters, status, reconciliation."""

import asyncio
import json
import os
import signal
import sys
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nats
import psycopg
import pytest

from tests.mesh import GENEROUS, Mesh, User, running_mesh
from tests.shop import Shop, eventually
from tests.traces import Traces

# A second service with an RPC of the same name, as a larger platform would have.
AMBIGUOUS = """
from google.protobuf import descriptor_pb2, descriptor_pool
from protomesh.catalog.v1 import product_service_pb2 as catalog
from chassis import contract
from meshctl.__main__ import main
file = descriptor_pb2.FileDescriptorProto(name="outlet.proto", package="outlet.v1", syntax="proto3")
file.dependency.append(catalog.DESCRIPTOR.name)
get = file.service.add(name="ProductService").method.add(name="GetProduct")
get.input_type, get.output_type = ".protomesh.catalog.v1.GetProductRequest", ".protomesh.catalog.v1.Product"
contract.register(descriptor_pool.Default().AddSerializedFile(file.SerializeToString()))
main()
"""


@dataclass(frozen=True)
class Ended:
    """How a command ended, and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def refusal(self) -> str:
        """The sentence of a command that failed as it should: no traceback, nothing on standard output."""
        assert (self.code, self.out) == (1, ""), self
        assert "Traceback" not in self.err
        return self.err.strip()

    @property
    def answer(self) -> Any:
        """The JSON that a command wrote."""
        assert self.code == 0, self
        return json.loads(self.out)


async def start(mesh: Mesh | Path, *arguments: str) -> asyncio.subprocess.Process:
    folder = mesh if isinstance(mesh, Path) else mesh.folder.root
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "meshctl", *arguments, "--data", str(folder)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def meshctl(mesh: Mesh | Path, *arguments: str, given: str = "") -> Ended:
    """Runs a command to its end, as an operator would."""
    process = await start(mesh, *arguments)
    out, err = await process.communicate(given.encode())
    assert process.returncode is not None
    return Ended(process.returncode, out.decode(), err.decode())


@pytest.fixture(scope="module")
async def fragile(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Mesh]:
    """A mesh that gives events up after two attempts."""
    hasty = {"PROTOMESH_EVENT_ATTEMPTS": "2", "PROTOMESH_EVENT_BACKOFF_SECONDS": "[0.1]"}
    folder = tmp_path_factory.mktemp("fragile")
    async with running_mesh(folder, environment={**GENEROUS, **hasty}) as mesh:
        yield mesh


@pytest.mark.parametrize(
    "command",
    [("status",), ("trace",), ("call", "ListProducts"), ("events", "list"), ("reconcile",), ("down",)],
    ids=" ".join,
)
async def test_where_no_mesh_runs_a_command_says_so(tmp_path: Path, command: tuple[str, ...]) -> None:
    refusal = (await meshctl(tmp_path, *command)).refusal
    assert str(tmp_path) in refusal
    assert len(refusal.splitlines()) == 1


# trace


@pytest.fixture(scope="module")
async def traces(mesh: Mesh) -> Traces:
    found = Traces(mesh)
    # Its sign-in makes a trace, and is over by now.
    await found.listed()
    return found


async def new_project(mesh: Mesh, traces: Traces, anna: User) -> str:
    """A request whose trace has arrived; its trace id."""
    body = {"name": "Attic", "description": "", "status": "active"}
    made = await mesh.http.post("/v1/projects", json=body, headers=anna.headers)
    assert made.status_code == 201, made.text
    await traces.of(made, ("projects", "client", "SQL COMMIT"))
    return made.headers["trace-id"]


async def test_the_latest_trace_is_drawn_hop_by_hop(mesh: Mesh, traces: Traces, anna: User) -> None:
    trace_id = await new_project(mesh, traces, anna)
    title, *hops = (await meshctl(mesh, "trace")).out.splitlines()
    assert title.startswith(trace_id)
    assert "edge       POST /v1/projects" in hops[0]
    assert "projects   protomesh.projects.v1.ProjectService/CreateProject" in hops[2]
    assert any("SQL INSERT INTO projects" in hop for hop in hops)
    assert all(" ms  " in hop for hop in hops)


async def test_a_trace_is_found_by_its_id_by_its_name_and_by_a_service(
    mesh: Mesh, traces: Traces, anna: User
) -> None:
    wanted = await new_project(mesh, traces, anna)
    listed = await mesh.http.get("/v1/products")
    await traces.of(listed, ("catalog", "client", "SQL SELECT"))
    for choice in ([wanted], [wanted.upper()], ["--search", "post /v1/projects"], ["--service", "projects"]):
        drawn = await meshctl(mesh, "trace", *choice)
        assert drawn.out.startswith(wanted), (choice, drawn)


async def test_recent_traces_are_listed_without_those_of_looking(
    mesh: Mesh, traces: Traces, anna: User
) -> None:
    trace_id = await new_project(mesh, traces, anna)
    title, first, *_ = (await meshctl(mesh, "trace", "--list")).out.splitlines()
    assert title.split() == ["trace", "id", "began", "ms", "spans", "errors", "name", "services"]
    assert trace_id in first
    assert "POST /v1/projects" in first
    assert "edge, projects" in first


async def test_a_trace_that_is_not_kept_is_a_sentence(mesh: Mesh) -> None:
    assert "No such trace is kept" in (await meshctl(mesh, "trace", "--search", "nothing-like-it")).refusal
    assert "TRACE_NOT_FOUND" in (await meshctl(mesh, "trace", "a" * 32)).refusal
    assert "trace_id" in (await meshctl(mesh, "trace", "123")).refusal


# call


@pytest.mark.parametrize(
    "name",
    [
        "ListProducts",
        "ProductService/ListProducts",
        "protomesh.catalog.v1.ProductService/ListProducts",
        "/protomesh.catalog.v1.ProductService/ListProducts",
    ],
)
async def test_an_rpc_is_called_by_as_much_of_its_name_as_names_it(mesh: Mesh, name: str) -> None:
    page = (await meshctl(mesh, "call", name, '{"limit": 3}')).answer
    assert page["meta"]["limit"] == 3


async def test_a_name_of_two_rpcs_is_refused_with_both(mesh: Mesh) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-c", AMBIGUOUS, "call", "GetProduct", "--data", str(mesh.folder.root)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    _, err = await process.communicate()
    assert process.returncode == 1
    assert err.decode().strip() == (
        "'GetProduct' names 2 RPCs: protomesh.catalog.v1.ProductService/GetProduct, "
        "outlet.v1.ProductService/GetProduct."
    )


async def test_a_name_of_no_rpc_is_refused(mesh: Mesh) -> None:
    assert (await meshctl(mesh, "call", "GetNothing")).refusal == (
        "'GetNothing' names no RPC: see `meshctl call --list GetNothing`."
    )


async def test_rpcs_are_listed_with_what_they_take_and_give(mesh: Mesh) -> None:
    listed = (await meshctl(mesh, "call", "--list", "orderservice")).out.splitlines()
    watch = "protomesh.ordering.v1.OrderService/WatchOrder(WatchOrderRequest) → stream Order"
    assert watch in listed
    assert all("OrderService" in line for line in listed)
    assert len((await meshctl(mesh, "call")).out.splitlines()) > len(listed)


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        ("{", "The request is not a valid GetProductRequest: "),
        ("[]", "The request is not a valid GetProductRequest: "),
        ('{"id": 1}', "The request is not a valid GetProductRequest: "),
        ('{"ident": ""}', 'has no field named "ident"'),
        ("{} {}", "GetProduct takes one request, not 2."),
        ("", "GetProduct takes one request, not 0."),
    ],
)
async def test_what_is_no_request_is_a_sentence(mesh: Mesh, request_: str, said: str) -> None:
    refusal = (await meshctl(mesh, "call", "GetProduct", request_)).refusal
    assert said in refusal
    assert len(refusal.splitlines()) == 1


async def test_a_request_may_come_from_standard_input(mesh: Mesh) -> None:
    page = (await meshctl(mesh, "call", "ListProducts", "-", given='{"limit": 7}')).answer
    assert page["meta"]["limit"] == 7


async def test_the_administrator_may_call_what_nobody_may(mesh: Mesh) -> None:
    assert "TOKEN_MISSING" in (await meshctl(mesh, "call", "ListUsers")).refusal
    users = (await meshctl(mesh, "call", "ListUsers", "--admin")).answer["data"]
    assert mesh.admin_email in {user["email"] for user in users}


async def test_an_internal_rpc_takes_the_certificate_of_a_service_that_may_call_it(
    mesh: Mesh, shop: Shop
) -> None:
    lines = [{"product_id": await shop.new_product(units=1), "quantity": 1}]
    request = json.dumps({"order_id": str(uuid.uuid4()), "lines": lines, "hold": "60s"})
    refusal = (await meshctl(mesh, "call", "ReserveStock", request)).refusal
    assert refusal.startswith("PERMISSION_DENIED WORKLOAD_NOT_ALLOWED: ")
    assert "method: protomesh.catalog.v1.InventoryService/ReserveStock" in refusal
    reserved = (await meshctl(mesh, "call", "ReserveStock", request, "--as", "ordering")).answer
    assert reserved["prices"][0]["unit_price"] == {"currency_code": "GBP", "amount_minor": "250"}
    unknown = (await meshctl(mesh, "call", "ReserveStock", request, "--as", "nobody")).refusal
    assert unknown.startswith("There is no workload 'nobody': the workloads are catalog, ")


async def test_a_failed_call_says_its_reason_its_fields_and_its_trace(mesh: Mesh) -> None:
    refusal = (await meshctl(mesh, "call", "ListProducts", '{"limit": -1}')).refusal.splitlines()
    assert refusal[0].startswith("INVALID_ARGUMENT VALIDATION_FAILED: ")
    assert refusal[1].strip().startswith("limit: ")
    trace_id = refusal[2].removeprefix("  trace: ")

    async def arrived() -> bool:
        return "developer" in (await meshctl(mesh, "trace", trace_id)).out

    await eventually(arrived)


async def test_what_is_no_header_is_refused(mesh: Mesh) -> None:
    refusal = (await meshctl(mesh, "call", "ListProducts", "-H", "authorization")).refusal
    assert refusal == "'authorization' is not a header: write it as 'NAME: VALUE'."


async def test_a_stream_is_written_as_it_comes(mesh: Mesh, shop: Shop, anna: User) -> None:
    order = await shop.ordered(anna, {await shop.new_product(units=1): 1})
    request, token = json.dumps({"id": order["id"]}), f"authorization: Bearer {anna.token}"
    watch = await start(mesh, "call", "WatchOrder", request, "-H", token)
    assert watch.stdout is not None
    async with asyncio.timeout(30):
        while '"status": "pending_payment"' not in (line := (await watch.stdout.readline()).decode()):
            assert line, (await watch.communicate())[1]
        assert (await shop.cancel(anna, order["id"])).status_code == 200
        rest = (await watch.communicate())[0].decode()
    assert '"status": "cancelled"' in rest
    assert watch.returncode == 0


# events


async def dead_letter(mesh: Mesh, aggregate_id: str) -> int:
    """The number of the dead letter about this aggregate, once there is one."""
    found: list[str] = []

    async def buried() -> bool:
        rows = (await meshctl(mesh, "events", "list")).out.splitlines()
        found[:] = [row for row in rows if aggregate_id in row]
        return bool(found)

    await eventually(buried, seconds=30)
    assert "catalog.release_stock" in found[0]
    return int("".join(char if char.isdigit() else " " for char in found[0]).split()[0])


async def publish_nonsense(mesh: Mesh) -> str:
    """Puts what no consumer can read straight into a stream; the id of what it is about."""
    order_id = str(uuid.uuid4())
    headers = {
        "ce-id": str(uuid.uuid4()),
        "ce-type": "protomesh.ordering.v1.OrderCancelled",
        "ce-subject": order_id,
    }
    client = await nats.connect(mesh.nats_url)
    try:
        subject = f"ordering.order.cancelled.v1.{order_id}"
        await client.jetstream().publish(subject, b"\xff\xff", headers=headers)
    finally:
        await client.close()
    return order_id


async def test_an_event_that_nobody_can_read_is_listed_shown_replayed_and_dropped(mesh: Mesh) -> None:
    order_id = await publish_nonsense(mesh)
    number = await dead_letter(mesh, order_id)
    shown = await meshctl(mesh, "events", "show", str(number))
    assert shown.code == 0, shown
    assert f"ce-subject: {order_id}" in shown.out
    assert "mesh-error: The payload is not a protomesh.ordering.v1.OrderCancelled." in shown.out
    assert (
        shown.out.splitlines()[-1] == "The payload is not a valid protomesh.ordering.v1.OrderCancelled: ffff"
    )

    replayed = await meshctl(mesh, "events", "replay", str(number))
    assert replayed.out == f"{number}: replayed\n"
    again = await dead_letter(mesh, order_id)
    assert again > number
    assert (await meshctl(mesh, "events", "drop", str(again))).out == f"{again}: dropped\n"
    assert order_id not in (await meshctl(mesh, "events", "list")).out


async def test_a_stream_that_lost_what_it_had_is_filled_again(mesh: Mesh) -> None:
    client = await nats.connect(mesh.nats_url)
    try:
        jetstream = client.jetstream()
        before = (await jetstream.stream_info("IDENTITY")).state.messages
        await jetstream.purge_stream("IDENTITY")
        done = await meshctl(mesh, "events", "rebuild", "IDENTITY")
        assert done.out == f"{before} events of IDENTITY were sent again.\n"

        async def filled() -> bool:
            return (await jetstream.stream_info("IDENTITY")).state.messages >= before

        await eventually(filled, seconds=30)
    finally:
        await client.close()


async def test_a_stream_that_no_service_owns_is_a_sentence(mesh: Mesh) -> None:
    refusal = (await meshctl(mesh, "events", "rebuild", "NOBODYS")).refusal
    assert refusal == "There is no stream 'NOBODYS': the streams are CATALOG, IDENTITY, ORDERING, PROJECTS."


async def test_a_letter_that_is_not_there_is_a_sentence(mesh: Mesh) -> None:
    for command in ("show", "replay", "drop"):
        refusal = (await meshctl(mesh, "events", command, "999999")).refusal
        assert refusal == "There is no dead letter 999999."


@pytest.mark.parametrize("command", ["replay", "drop"])
async def test_letters_must_be_named(mesh: Mesh, command: str) -> None:
    refusal = (await meshctl(mesh, "events", command)).refusal
    assert refusal == "Give the numbers of the letters, or --all."


async def test_an_event_whose_handler_failed_takes_effect_when_it_is_replayed(fragile: Mesh) -> None:
    shop, buyer = Shop(fragile), await fragile.sign_up()
    product = await shop.new_product(units=5)
    order = await shop.ordered(buyer, {product: 2})
    url = fragile.database_url("catalog")
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        # A migration gone wrong; the operator mends it, and replays.
        await connection.execute("ALTER TABLE reservation_lines RENAME TO lost")
        assert (await shop.cancel(buyer, order["id"])).status_code == 200
        number = await dead_letter(fragile, order["id"])
        await connection.execute("ALTER TABLE lost RENAME TO reservation_lines")
    shown = (await meshctl(fragile, "events", "show", str(number))).out
    assert "mesh-attempts: 2" in shown
    assert json.loads(shown[shown.index("\n{\n") :])["order_id"] == order["id"]
    assert await shop.stock(product) == (3, 2)

    everything = await meshctl(fragile, "events", "replay", "--all", "--consumer", "catalog.release_stock")
    assert everything.out == f"{number}: replayed\n"

    async def given_back() -> bool:
        return await shop.stock(product) == (5, 0)

    await eventually(given_back)
    assert (await meshctl(fragile, "events", "list")).out == "There are no dead letters.\n"


# status and reconcile


async def test_the_status_shows_every_process(mesh: Mesh) -> None:
    await mesh.healthy()
    shown = await meshctl(mesh, "status")
    assert shown.code == 0, shown
    title, *rows = (line.split() for line in shown.out.splitlines())
    assert title == ["process", "health", "pid", "port", "metrics", "memory", "uptime", "restarts"]
    states = {state["name"]: state for state in mesh.status()}
    assert {row[0] for row in rows} == {*states, "all"}
    for name, health, pid, port, *_ in rows[:-1]:
        assert (health, int(pid), int(port)) == ("healthy", states[name]["pid"], states[name]["port"])


async def test_the_status_fails_while_a_process_is_not_healthy(mesh: Mesh) -> None:
    # One that hangs: one that was killed may be back before it is asked.
    [hung] = mesh.processes("ratelimit")
    os.kill(hung, signal.SIGSTOP)
    try:
        shown = await meshctl(mesh, "status")
    finally:
        os.kill(hung, signal.SIGCONT)
    await mesh.healthy()
    assert shown.code == 1
    (row,) = (line for line in shown.out.splitlines() if "ratelimit-1" in line)
    assert "not healthy" in row


async def test_reconciliation_says_whether_the_ledgers_agree(fragile: Mesh) -> None:
    shop, buyer = Shop(fragile), await fragile.sign_up()
    product = await shop.new_product(units=5)
    await shop.ordered(buyer, {product: 2})
    agreed = await meshctl(fragile, "reconcile")
    assert (agreed.code, agreed.out) == (0, "ordering and catalog agree\n")
    url = fragile.database_url("catalog")
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        await connection.execute(
            "UPDATE stock SET available = 4, reserved = 1 WHERE product_id = %s", (product,)
        )
        found = await meshctl(fragile, "reconcile")
        await connection.execute(
            "UPDATE stock SET available = 3, reserved = 2 WHERE product_id = %s", (product,)
        )
    assert found.code == 1
    assert found.out.startswith(f"{product}: stock says 4 available + 1 reserved + 0 sold of 5 received")
    assert found.out.endswith("1 findings\n")


async def test_who_did_what_is_shown(mesh: Mesh) -> None:
    user, admin = await mesh.sign_up(), {"authorization": f"Bearer {await mesh.admin_token()}"}
    barred = await mesh.http.post(f"/v1/users/{user.id}:disable", json={}, headers=admin)
    assert barred.status_code == 200
    shown = await meshctl(mesh, "audit", "--rpc", "disableuser", "--json")
    newest = json.loads(shown.out.splitlines()[0])
    assert (newest["service"], newest["outcome"], newest["request"]) == ("identity", "OK", {"id": user.id})
    assert newest["trace_id"] == barred.headers["trace-id"]
    table = await meshctl(mesh, "audit", "--principal", newest["principal"], "--since", "1h")
    assert f"id: {user.id}" in table.out
    none = await meshctl(mesh, "audit", "--principal", "workload:nobody")
    assert none.out.strip() == "There are no such records."
    wrong = await meshctl(mesh, "audit", "--since", "yesterday")
    assert (wrong.code, wrong.err.strip()) == (
        1,
        "'yesterday' is not a duration: write 30m, 24h or 7d.",
    )


async def test_an_import_runs_the_command_of_the_catalog_for_this_mesh(mesh: Mesh, tmp_path: Path):
    file = tmp_path / "products.csv"
    file.write_text(f"sku,name,price\n{uuid.uuid4().hex},Imported,1.00\n")
    first, second = [await meshctl(mesh, "import", "products", str(file), "--currency", "GBP") for _ in "12"]
    assert (first.code, second.code) == (0, 0), first
    assert "1 rows: 1 created" in first.out
    assert "1 unchanged" in second.out
    missing = await meshctl(mesh, "import", "products", str(tmp_path / "none.csv"))
    assert "cannot be read" in missing.refusal
    elsewhere = await meshctl(
        mesh, "import", "products", str(file), "--currency=GBP", "--edge-url", "nowhere"
    )
    assert (elsewhere.code, "Not a URL of the mesh" in elsewhere.err) == (1, True)
