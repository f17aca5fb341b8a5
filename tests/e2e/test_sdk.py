"""The Python SDK as a consumer has it: a wheel in an environment of its own, and the mesh on the other side."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, TypeAlias

import grpc
import pytest
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from chassis import contract
from tests.certificates import issue
from tests.edge_stand import EdgeStand, edge_stand
from tests.mesh import Mesh
from tests.shop import Shop

ROOT = Path(__file__).resolve().parents[2]
Consume = Callable[..., Awaitable[Any]]
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

JOURNEY = """
import json, sys, uuid
from unittest import mock
from protomesh.catalog.v1.product_service_pb2 import GetProductRequest, ListProductsRequest
from protomesh.identity.v1.auth_service_pb2 import RegisterUserRequest
from protomesh.identity.v1.user_service_pb2 import GetMeRequest
from protomesh.ordering.v1.order_service_pb2 import (
    ListOrdersRequest, PlaceOrderLine, PlaceOrderRequest, WatchOrderRequest,
)
from protomesh_sdk import InvalidArgument, Mesh, NotFound, Unauthenticated, rows, session

url, product_id = sys.argv[1:]
name = f"sdk-{uuid.uuid4().hex[:12]}"
email, password = f"{name}@example.com", "correct horse battery"
seen = {}
with Mesh(url) as mesh:
    try:
        mesh.orders.ListOrders(ListOrdersRequest())
    except Unauthenticated as error:
        seen["signed_out"] = error.reason
    try:
        mesh.identity.auth.RegisterUser(RegisterUserRequest(username=name, email=email, password="short"))
    except InvalidArgument as error:
        seen["violations"] = [violation.field for violation in error.violations]
    registered = mesh.identity.auth.RegisterUser(RegisterUserRequest(username=name, email=email, password=password))
    mesh.login(email, password)
    first = mesh.session.access_token()
    order = mesh.orders.PlaceOrder(PlaceOrderRequest(lines=[PlaceOrderLine(product_id=product_id, quantity=2)]))
    seen["bought"] = sum(line.quantity for line in order.lines)
    seen["orders"] = [each.id == order.id for each in rows(mesh.orders.ListOrders, ListOrdersRequest(limit=1))]
    seen["watched"] = next(iter(mesh.orders.WatchOrder(WatchOrderRequest(id=order.id)))).id == order.id
    seen["some_products"] = len(mesh.catalog.products.ListProducts(ListProductsRequest(limit=3)).data) > 0
    try:
        mesh.catalog.products.GetProduct(GetProductRequest(id=str(uuid.uuid4())))
    except NotFound as error:
        seen["not_found"] = error.reason
    later = session.time.monotonic() + 580
    with mock.patch.object(session.time, "monotonic", lambda: later):
        seen["renewed"] = mesh.session.access_token() != first
    seen["me"] = mesh.identity.users.GetMe(GetMeRequest()).id == registered.id
    mesh.logout()
    try:
        mesh.identity.users.GetMe(GetMeRequest())
    except Unauthenticated as error:
        seen["after_logout"] = error.reason
print(json.dumps(seen))
"""

CALL = """
import json, sys
from protomesh.catalog.v1.product_service_pb2 import GetProductRequest
from protomesh.ordering.v1.order_service_pb2 import PlaceOrderLine, PlaceOrderRequest
from protomesh_sdk import Mesh, MeshError

url, id, *token = sys.argv[1:]
metadata = [("authorization", f"Bearer {each}") for each in token]
with Mesh(url) as mesh:
    try:
        %s
        print(json.dumps("ok"))
    except MeshError as error:
        print(json.dumps([type(error).__name__, error.reason, error.metadata]))
"""
GET = CALL % "mesh.catalog.products.GetProduct(GetProductRequest(id=id))"
PLACE = CALL % (
    "lines = [PlaceOrderLine(product_id=id, quantity=1)]; "
    "mesh.orders.PlaceOrder(PlaceOrderRequest(lines=lines), metadata=metadata)"
)
GET_PRODUCT = "/protomesh.catalog.v1.ProductService/GetProduct"
PLACE_ORDER = "/protomesh.ordering.v1.OrderService/PlaceOrder"
ID = "0199a5f0-0000-7000-8000-000000000000"


@pytest.fixture(scope="module")
def consume(tmp_path_factory: pytest.TempPathFactory) -> Consume:
    """Runs a script in an environment that holds the SDK's wheel and what it asks for; gives the JSON it prints."""
    home = tmp_path_factory.mktemp("consumer")
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "-w",
        str(home),
        str(ROOT / "sdk/python"),
    ]
    subprocess.run(build, check=True)
    subprocess.run([sys.executable, "-m", "venv", str(home / "venv")], check=True)
    (wheel,) = home.glob("*.whl")
    subprocess.run([str(home / "venv/bin/pip"), "install", "-q", str(wheel)], check=True)
    python = str(home / "venv/bin/python")

    async def run(script: str, *arguments: str) -> Any:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        process = await asyncio.create_subprocess_exec(
            python,
            "-c",
            script,
            *arguments,
            cwd=home,
            env=environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await asyncio.wait_for(process.communicate(), 60)
        assert process.returncode == 0, err.decode()
        return json.loads(out)

    return run


@pytest.fixture(scope="module")
async def stand(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EdgeStand]:
    directory = tmp_path_factory.mktemp("edge")
    issue(directory, "edge", *{method.deployable for method in contract.platform()})
    async with edge_stand(directory, directory) as running:
        yield running


async def test_a_consumer_signs_up_buys_and_signs_out(consume: Consume, mesh: Mesh) -> None:
    seen = await consume(JOURNEY, mesh.edge_url, await Shop(mesh).new_product(units=5))
    assert seen == {
        "signed_out": "TOKEN_MISSING",
        "violations": ["password"],
        "bought": 2,
        "orders": [True],
        "watched": True,
        "some_products": True,
        "not_found": "PRODUCT_NOT_FOUND",
        "renewed": True,
        "me": True,
        "after_logout": "TOKEN_MISSING",
    }


async def test_a_read_is_repeated_when_its_server_is_unavailable(consume: Consume, stand: EdgeStand) -> None:
    attempts = []

    async def unavailable_at_first(request: Any, context: Context) -> Message:
        attempts.append(request.id)
        if len(attempts) == 1:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "Not now.")
        return contract.method_at(GET_PRODUCT).response_class()

    stand.upstream.answers[GET_PRODUCT] = unavailable_at_first
    assert await consume(GET, stand.url, ID) == "ok"
    assert attempts == [ID, ID]


async def test_an_order_that_is_repeated_keeps_its_idempotency_key(
    consume: Consume, stand: EdgeStand
) -> None:
    keys = []

    async def unavailable_at_first(_: Any, context: Context) -> Message:
        keys.append(dict(context.invocation_metadata() or ())["idempotency-key"])
        if len(keys) == 1:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "Not now.")
        return contract.method_at(PLACE_ORDER).response_class()

    stand.upstream.answers[PLACE_ORDER] = unavailable_at_first
    assert await consume(PLACE, stand.url, ID, stand.token()) == "ok"
    assert len(keys) == 2
    assert len(set(keys)) == 1


async def test_an_error_arrives_with_its_reason_and_details(consume: Consume, stand: EdgeStand) -> None:
    async def out_of_stock(_: Any, context: Context) -> Message:
        status = status_pb2.Status(code=9, message="Fewer units are there than are wanted.")
        info = error_details_pb2.ErrorInfo(
            reason="OUT_OF_STOCK", domain="protomesh", metadata={"available": "3"}
        )
        status.details.add().Pack(info)
        trailers = (("grpc-status-details-bin", status.SerializeToString()),)
        return await context.abort(grpc.StatusCode.FAILED_PRECONDITION, status.message, trailers)

    stand.upstream.answers[PLACE_ORDER] = out_of_stock
    outcome = await consume(PLACE, stand.url, ID, stand.token())
    assert outcome == ["FailedPrecondition", "OUT_OF_STOCK", {"available": "3"}]


async def test_a_call_without_a_timeout_ends_at_that_of_its_contract(
    consume: Consume, stand: EdgeStand
) -> None:
    async def never(_: Any, __: Context) -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    stand.upstream.answers[GET_PRODUCT] = never
    # The edge would have given a reason: this is the client's own clock.
    assert await consume(GET, stand.url, ID) == ["DeadlineExceeded", "", {}]


def test_the_sdk_offers_every_service_that_the_edge_exposes() -> None:
    source = (ROOT / "sdk/python/src/protomesh_sdk/mesh.py").read_text()
    services = {method.service.rpartition(".")[2] for method in contract.platform() if method.http}
    assert {service for service in services if f"= {service}Stub(channel)" not in source} == set()
