"""Calls that an operator makes by name."""

import asyncio
import json
import sys
import uuid
from pathlib import Path

import pytest

from tests.e2e.terminal import meshctl, start
from tests.mesh import Mesh, User
from tests.patience import eventually
from tests.shop import Shop

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
        "'GetNothing' names no RPC: see `meshctl call --list`."
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


async def test_an_operator_needs_no_password_so_that_wrong_ones_lock_nobody_out(
    mesh: Mesh, tmp_path: Path
) -> None:
    file = tmp_path / "products.csv"
    file.write_text(f"sku,name,price\n{uuid.uuid4().hex},Imported,1.00\n")
    known = mesh.folder.dev_env.read_text()
    mesh.folder.dev_env.write_text(known.replace(mesh.admin_password, "guessed"))
    try:
        commands = (
            ("call", "ListUsers", "--admin"),
            ("trace", "--list"),
            ("import", "products", str(file), "--currency", "GBP"),
        )
        ended = [await meshctl(mesh, *command) for command in commands]
    finally:
        mesh.folder.dev_env.write_text(known)
    assert [each.code for each in ended] == [0, 0, 0], ended


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
