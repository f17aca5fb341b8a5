"""How the edge lives with workers that come, go, die or fall silent."""

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from protomesh.ordering.v1.order_service_pb2 import GetOrderRequest
from protomesh.ordering.v1.order_service_pb2_grpc import OrderServiceStub

from meshctl.core.ports import Ports
from meshctl.edge import rendering
from tests.edge_stand import Context, EdgeStand, edge_stand
from tests.patience import eventually
from tests.wire import Wire

ID = "0198f2a0-0000-7000-8000-000000000001"


async def test_workers_come_and_go_without_a_failed_request(tmp_path: Path, edge_certificates: Path) -> None:
    ports = Ports()
    first_port, second_port = ports.take(), ports.take()
    targets = {"ordering": f"ipv4:127.0.0.1:{first_port}"}
    async with edge_stand(tmp_path, edge_certificates, targets=targets) as stand:
        first = await stand.upstream.serve(edge_certificates, "ordering", first_port)
        await stand.eventually(200)
        second = await stand.upstream.serve(edge_certificates, "ordering", second_port)
        statuses: list[int] = []
        async with requesting(stand, statuses):
            route(stand, {"ordering": f"ipv4:127.0.0.1:{first_port},127.0.0.1:{second_port}"})
            await healthy(stand, "ordering", second_port)
            route(stand, {"ordering": f"ipv4:127.0.0.1:{second_port}"})
            await unlisted(stand, "ordering", first_port)
            await first.stop(10)
            await asyncio.sleep(0.5)
        assert len(statuses) > 20
        assert set(statuses) == {200}
        await second.stop(None)


async def test_a_worker_that_dies_costs_no_read_while_another_lives(
    tmp_path: Path, edge_certificates: Path
) -> None:
    ports = Ports()
    alive, behind = ports.take(), ports.take()
    async with Wire(behind) as wire:
        targets = {"ordering": f"ipv4:127.0.0.1:{alive},127.0.0.1:{wire.port}"}
        async with edge_stand(tmp_path, edge_certificates, targets=targets) as stand:
            server = await stand.upstream.serve(edge_certificates, "ordering", alive)
            doomed = await stand.upstream.serve(edge_certificates, "ordering", behind)
            await healthy(stand, "ordering", alive, wire.port)
            statuses: list[int] = []
            async with requesting(stand, statuses):
                await asyncio.sleep(0.3)
                wire.cut()
                await asyncio.sleep(0.7)
            assert set(statuses) == {200}
            await server.stop(None)
            await doomed.stop(None)


async def test_a_name_is_resolved_to_its_addresses(tmp_path: Path, edge_certificates: Path) -> None:
    port = Ports().take()
    async with edge_stand(
        tmp_path, edge_certificates, targets={"ordering": f"dns:///localhost:{port}"}
    ) as stand:
        server = await stand.upstream.serve(edge_certificates, "ordering", port)
        await stand.eventually(200)
        await server.stop(None)


async def test_a_service_that_falls_silent_is_a_deadline_exceeded(
    tmp_path: Path, edge_certificates: Path
) -> None:
    behind = Ports().take()
    async with Wire(behind) as wire:
        targets = {"ordering": f"ipv4:127.0.0.1:{wire.port}"}
        async with edge_stand(tmp_path, edge_certificates, targets=targets) as stand:
            server = await stand.upstream.serve(edge_certificates, "ordering", behind)
            await healthy(stand, "ordering", wire.port)
            wire.stall()
            response, refused = await asyncio.gather(
                stand.http.get(f"/v1/orders/{ID}", headers=stand.bearer(), timeout=10), natively(stand)
            )
            assert response.status_code == 504
            assert response.json()["details"][0]["reason"] == "DEADLINE_EXCEEDED"
            assert refused.code() == grpc.StatusCode.DEADLINE_EXCEEDED
            await server.stop(None)


async def test_a_bare_deadline_of_a_server_is_told_in_full(stand: EdgeStand) -> None:
    """As gRPC says it by itself when a server does not come to it in time."""

    async def late(request: Any, context: Context) -> None:
        await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")

    stand.upstream.answers["/protomesh.ordering.v1.OrderService/GetOrder"] = late
    response = await stand.http.get(f"/v1/orders/{ID}", headers=stand.bearer())
    assert response.status_code == 504
    assert response.json()["details"][0]["reason"] == "DEADLINE_EXCEEDED"
    assert "grpc-status" not in response.headers


async def natively(stand: EdgeStand) -> grpc.aio.AioRpcError:
    """The error of a native call that says nothing of a deadline."""
    target, token = f"127.0.0.1:{stand.settings.port}", stand.bearer()["authorization"]
    async with grpc.aio.insecure_channel(target, [("grpc.enable_http_proxy", 0)]) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await OrderServiceStub(channel).GetOrder(
                GetOrderRequest(id=ID), metadata=(("authorization", token),)
            )
    return refused.value


async def test_no_worker_at_all_is_unavailable(tmp_path: Path, edge_certificates: Path) -> None:
    async with edge_stand(tmp_path, edge_certificates, without=["ordering"]) as stand:
        response = await stand.http.get("/v1/orders", headers=stand.bearer())
        assert response.status_code == 503
        assert response.json()["details"][0]["reason"] == "DEPENDENCY_UNAVAILABLE"


async def test_an_answer_of_unavailable_is_not_sent_again(stand: EdgeStand) -> None:
    async def unavailable(request: Any, context: Context) -> None:
        await context.abort(grpc.StatusCode.UNAVAILABLE, "later")

    stand.upstream.answers["/protomesh.ordering.v1.OrderService/GetOrder"] = unavailable
    assert (await stand.http.get(f"/v1/orders/{ID}", headers=stand.bearer())).status_code == 503
    assert len(stand.upstream.received) == 1


async def test_a_connection_ends_after_a_while_and_loses_no_request(
    tmp_path: Path, edge_certificates: Path
) -> None:
    """So that an edge that was added gets its share of clients."""
    async with edge_stand(tmp_path, edge_certificates, connection_duration=1) as stand:
        answers: list[httpx.Response] = []

        async def told_to_leave() -> bool:
            answers.append(await stand.http.get("/v1/products"))
            return answers[-1].headers.get("connection") == "close"

        await eventually(told_to_leave, within=10)
        assert {answer.status_code for answer in answers} == {200}


async def test_the_mesh_is_ready_when_each_service_has_a_worker(
    tmp_path: Path, edge_certificates: Path
) -> None:
    async with edge_stand(tmp_path, edge_certificates, without=["ordering"]) as stand:
        response = await stand.http.get("/readyz")
        assert response.status_code == 503
        assert response.json()["details"][0]["reason"] == "DEPENDENCY_UNAVAILABLE"
        assert (await stand.http.get("/healthz")).status_code == 200
        port = int(stand.settings.targets["ordering"].rpartition(":")[2])
        server = await stand.upstream.serve(edge_certificates, "ordering", port)

        async def ready() -> bool:
            return (await stand.http.get("/readyz")).status_code == 200

        await eventually(ready, within=30)
        await server.stop(None)


@contextlib.asynccontextmanager
async def requesting(stand: EdgeStand, statuses: list[int]) -> Any:
    """Sends requests one after the other, four at a time, while the block runs."""
    over = asyncio.Event()

    async def client() -> None:
        while not over.is_set():
            statuses.append((await stand.http.get("/v1/orders", headers=stand.bearer())).status_code)

    clients = [asyncio.create_task(client()) for _ in range(4)]
    try:
        yield
    finally:
        over.set()
        await asyncio.gather(*clients)


def route(stand: EdgeStand, targets: dict[str, str]) -> None:
    rendering.write_targets(stand.settings, stand.directory, {**stand.settings.targets, **targets})


async def unlisted(stand: EdgeStand, deployable: str, port: int) -> None:
    async def gone() -> bool:
        return f"{deployable}::127.0.0.1:{port}::" not in await stand.admin("/clusters")

    await eventually(gone, within=30)


async def healthy(stand: EdgeStand, deployable: str, *ports: int) -> None:
    lines = [f"{deployable}::127.0.0.1:{port}::health_flags::healthy" for port in ports]

    async def all_are() -> bool:
        text = await stand.admin("/clusters")
        return all(line in text for line in lines)

    await eventually(all_are, within=30)
