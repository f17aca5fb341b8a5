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
from protomesh.identity.v1.auth_service_pb2 import TokenGrant
from protomesh.ordering.v1.order_pb2 import Order

from chassis import contract
from tests.certificates import issue
from tests.edge_stand import EdgeStand, edge_stand
from tests.mesh import Mesh
from tests.shop import Shop

ROOT = Path(__file__).resolve().parents[2]
CONSUMERS = Path(__file__).parent / "consumers"
Consume = Callable[..., Awaitable[Any]]
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

GET_PRODUCT = "/protomesh.catalog.v1.ProductService/GetProduct"
PLACE_ORDER = "/protomesh.ordering.v1.OrderService/PlaceOrder"
WATCH_ORDER = "/protomesh.ordering.v1.OrderService/WatchOrder"
LOGIN = "/protomesh.identity.v1.AuthService/LoginUser"
ID = "0199a5f0-0000-7000-8000-000000000000"


@pytest.fixture(scope="module")
def consume(tmp_path_factory: pytest.TempPathFactory) -> Consume:
    """Runs a consumer in an environment that holds the SDK's wheel and what it asks for; gives the JSON it prints."""
    home = tmp_path_factory.mktemp("consumer")
    subprocess.run([sys.executable, "-m", "venv", str(home / "venv")], check=True)
    pip = [str(home / "venv/bin/pip"), "-q"]
    subprocess.run([*pip, "wheel", "--no-deps", "-w", str(home), str(ROOT / "sdk/python")], check=True)
    (wheel,) = home.glob("*.whl")
    subprocess.run([*pip, "install", str(wheel)], check=True)
    python = str(home / "venv/bin/python")

    async def run(name: str, *arguments: str) -> Any:
        script = str(CONSUMERS / f"{name}.py")
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        process = await asyncio.create_subprocess_exec(
            python,
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


async def abort(context: Context, code: grpc.StatusCode, reason: str, **metadata: str) -> Message:
    """Fails a call as a server of the mesh does."""
    number: int = code.value[0]
    status = status_pb2.Status(code=number, message="It failed.")
    status.details.add().Pack(
        error_details_pb2.ErrorInfo(reason=reason, domain="protomesh", metadata=metadata)
    )
    await context.abort(code, status.message, (("grpc-status-details-bin", status.SerializeToString()),))
    raise AssertionError


@pytest.fixture(scope="module")
async def stand(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EdgeStand]:
    directory = tmp_path_factory.mktemp("edge")
    issue(directory, "edge", *{method.deployable for method in contract.platform()})
    async with edge_stand(directory, directory) as running:
        yield running


async def test_a_consumer_signs_up_buys_and_signs_out(consume: Consume, mesh: Mesh) -> None:
    seen = await consume("journey", mesh.edge_url, await Shop(mesh).new_product(units=5))
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


async def test_the_client_for_asyncio_does_the_same(consume: Consume, stand: EdgeStand) -> None:
    async def sign_in(_: Any, __: Context) -> Message:
        return TokenGrant(access_token=stand.token(), expires_in=600)

    async def order(_: Any, __: Context) -> Message:
        return Order(id=ID)

    async def not_found(_: Any, context: Context) -> Message:
        return await abort(context, grpc.StatusCode.NOT_FOUND, "PRODUCT_NOT_FOUND")

    answers = {LOGIN: sign_in, PLACE_ORDER: order, WATCH_ORDER: order, GET_PRODUCT: not_found}
    stand.upstream.answers.update(answers)
    seen = await consume("asynchronous", stand.url, ID, "ada@example.com")
    assert seen == [True, ["ProductNotFound", "PRODUCT_NOT_FOUND"]]


async def test_a_read_is_repeated_when_its_server_is_unavailable(consume: Consume, stand: EdgeStand) -> None:
    attempts = []

    async def unavailable_at_first(request: Any, context: Context) -> Message:
        attempts.append(request.id)
        if len(attempts) == 1:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "Not now.")
        return contract.method_at(GET_PRODUCT).response_class()

    stand.upstream.answers[GET_PRODUCT] = unavailable_at_first
    assert await consume("one_call", stand.url, "get", ID) == "ok"
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
    assert await consume("one_call", stand.url, "place", ID, stand.token()) == "ok"
    assert len(keys) == 2
    assert len(set(keys)) == 1


async def test_an_error_arrives_with_its_reason_and_details(consume: Consume, stand: EdgeStand) -> None:
    async def out_of_stock(_: Any, context: Context) -> Message:
        return await abort(context, grpc.StatusCode.FAILED_PRECONDITION, "OUT_OF_STOCK", available="3")

    stand.upstream.answers[PLACE_ORDER] = out_of_stock
    outcome = await consume("one_call", stand.url, "place", ID, stand.token())
    assert outcome == ["OutOfStock", "OUT_OF_STOCK", {"available": "3"}]


async def test_a_call_without_a_timeout_ends_at_that_of_its_contract(consume: Consume) -> None:
    left = []

    async def never(_: bytes, context: Context) -> bytes:
        left.append(context.time_remaining() or 0)
        await asyncio.Event().wait()
        raise AssertionError

    # No edge, which would end the call as well: here is only the client's own clock.
    server = grpc.aio.server()
    service, _, name = GET_PRODUCT.lstrip("/").rpartition("/")
    handlers: Any = {name: grpc.unary_unary_rpc_method_handler(never)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    outcome = await consume("one_call", f"http://127.0.0.1:{port}", "get", ID)
    await server.stop(None)
    assert outcome == ["DeadlineExceeded", "", {}]
    allowed = contract.method_at(GET_PRODUCT).timeout
    # gRPC rounds up what it sends, by up to one in a hundred.
    assert allowed - 1 < left[0] <= allowed * 1.01


def test_the_sdk_offers_every_service_that_the_edge_exposes() -> None:
    source = (ROOT / "sdk/python/src/protomesh_sdk/mesh.py").read_text()
    services = {method.service.rpartition(".")[2] for method in contract.platform() if method.http}
    assert {service for service in services if f"= {service}Stub(channel)" not in source} == set()
