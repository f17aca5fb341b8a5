"""How the edge lives with upstreams that come, go, die or pretend, and with keys and certificates that change."""

import asyncio
import contextlib
import ssl
import warnings
from pathlib import Path
from typing import Any, Self

import grpc
import httpx
import pytest
from joserfc.jwk import ECKey
from protomesh.ordering.v1.order_service_pb2 import GetOrderRequest
from protomesh.ordering.v1.order_service_pb2_grpc import OrderServiceStub

from meshctl import edge
from meshctl.ports import Ports
from tests import certificates
from tests.edge_stand import WORKLOADS, Context, EdgeStand, edge_stand

ID = "0198f2a0-0000-7000-8000-000000000001"


async def eventually(stand: EdgeStand, status: int, path: str = "/v1/orders", seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while (await stand.http.get(path, headers=stand.bearer())).status_code != status:  # noqa: ASYNC110
            await asyncio.sleep(0.1)


async def test_the_edge_starts_without_identity_and_takes_its_keys_when_it_comes(
    tmp_path: Path, edge_certificates: Path
) -> None:
    port = Ports().take()
    async with edge_stand(
        tmp_path, edge_certificates, targets={"identity": f"ipv4:127.0.0.1:{port}"}
    ) as stand:
        refused = await stand.http.get("/v1/orders", headers=stand.bearer())
        assert refused.status_code == 503
        assert refused.json()["details"][0]["reason"] == "DEPENDENCY_UNAVAILABLE"
        assert (await stand.http.get("/v1/products")).status_code == 200
        server = await stand.upstream.serve(edge_certificates, "identity", port)
        await eventually(stand, 200)
        await server.stop(None)


async def test_a_key_that_was_published_before_its_use_is_known(
    tmp_path: Path, edge_certificates: Path
) -> None:
    coming = ECKey.generate_key("P-256", {"use": "sig", "kid": "key-2"})
    async with edge_stand(tmp_path, edge_certificates, other_keys=[coming]) as stand:
        header = {"kid": "key-2"}
        response = await stand.http.get("/v1/orders", headers=stand.bearer(key=coming, header=header))
        assert response.status_code == 200


async def test_workers_come_and_go_without_a_failed_request(tmp_path: Path, edge_certificates: Path) -> None:
    ports = Ports()
    first_port, second_port = ports.take(), ports.take()
    targets = {"ordering": f"ipv4:127.0.0.1:{first_port}"}
    async with edge_stand(tmp_path, edge_certificates, targets=targets) as stand:
        first = await stand.upstream.serve(edge_certificates, "ordering", first_port)
        await eventually(stand, 200)
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
        await eventually(stand, 200)
        await server.stop(None)


async def test_a_service_with_another_services_certificate_gets_no_request(
    tmp_path: Path, edge_certificates: Path
) -> None:
    port = Ports().take()
    async with edge_stand(
        tmp_path, edge_certificates, targets={"ordering": f"ipv4:127.0.0.1:{port}"}
    ) as stand:
        pretender = await stand.upstream.serve(edge_certificates, "catalog", port)
        response = await stand.http.get("/v1/orders", headers=stand.bearer())
        assert response.status_code == 503
        assert response.json()["details"][0]["reason"] == "DEPENDENCY_UNAVAILABLE"
        assert stand.upstream.received == []
        assert "fail_verify_san" in await stand.admin(
            "/stats?filter=cluster.ordering.ssl.fail_verify_san&usedonly"
        )
        await pretender.stop(None)


async def test_a_service_of_another_authority_gets_no_request(
    tmp_path: Path, edge_certificates: Path
) -> None:
    port = Ports().take()
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    certificates.issue(foreign, "ordering")
    async with edge_stand(
        tmp_path / "edge", edge_certificates, targets={"ordering": f"ipv4:127.0.0.1:{port}"}
    ) as stand:
        stranger = await stand.upstream.serve(foreign, "ordering", port)
        assert (await stand.http.get("/v1/orders", headers=stand.bearer())).status_code == 503
        assert stand.upstream.received == []
        await stranger.stop(None)


async def test_new_certificates_are_taken_without_a_restart(tmp_path: Path) -> None:
    folder = tmp_path / "certificates"
    folder.mkdir()
    certificates.issue(folder, *WORKLOADS)
    port = Ports().take()
    async with edge_stand(tmp_path / "edge", folder, targets={"ordering": f"ipv4:127.0.0.1:{port}"}) as stand:
        server = await stand.upstream.serve(folder, "ordering", port)
        await eventually(stand, 200)
        await server.stop(None)
        fresh = tmp_path / "fresh"
        fresh.mkdir()
        certificates.issue(fresh, *WORKLOADS)
        for file in fresh.iterdir():
            file.replace(folder / file.name)
        server = await stand.upstream.serve(folder, "ordering", port)
        await eventually(stand, 200)
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


@pytest.fixture
def public_certificate(tmp_path: Path) -> Path:
    folder = tmp_path / "public"
    folder.mkdir()
    certificates.issue(folder, "public")
    return folder


async def test_with_a_certificate_the_edge_speaks_tls_from_1_2_and_http_2(
    tmp_path: Path, edge_certificates: Path, public_certificate: Path
) -> None:
    async with edge_stand(
        tmp_path / "edge",
        edge_certificates,
        ready=False,
        tls_certificate=public_certificate / "public.pem",
        tls_private_key=public_certificate / "public.key",
    ) as stand:
        trusted = ssl.create_default_context(cafile=str(public_certificate / "ca.pem"))
        url = f"https://localhost:{stand.settings.port}"
        async with httpx.AsyncClient(base_url=url, verify=trusted) as client:
            response = await until_it_answers(client, "/healthz")
            assert response.headers["strict-transport-security"] == "max-age=31536000"
        assert await negotiated(stand.settings.port, public_certificate / "ca.pem") == ("h2", "TLSv1.3")
        with pytest.raises(ssl.SSLError):
            await negotiated(stand.settings.port, public_certificate / "ca.pem", ssl.TLSVersion.TLSv1_1)


async def negotiated(port: int, authority: Path, highest: ssl.TLSVersion | None = None) -> tuple[Any, Any]:
    context = ssl.create_default_context(cafile=str(authority))
    context.set_alpn_protocols(["h2", "http/1.1"])
    if highest is not None:
        context.set_ciphers("ALL:@SECLEVEL=0")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            context.minimum_version = context.maximum_version = highest
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="localhost")
    connection = writer.get_extra_info("ssl_object")
    writer.close()
    return connection.selected_alpn_protocol(), connection.version()


async def until_it_answers(client: httpx.AsyncClient, path: str) -> httpx.Response:
    async with asyncio.timeout(60):
        while True:
            try:
                return await client.get(path)
            except httpx.TransportError:
                await asyncio.sleep(0.1)


class Wire:
    """A TCP connection to a port, which can be cut in the middle of whatever it carries, as by kill -9."""

    def __init__(self, behind: int) -> None:
        self._behind = behind
        self._ends: list[asyncio.StreamWriter] = []
        self._stalled = False

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self.cut()

    def cut(self) -> None:
        self._server.close()
        for end in self._ends:
            end.transport.abort()

    def stall(self) -> None:
        """Carries nothing more, and tells nobody."""
        self._stalled = True

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._join(reader, writer)
        except ConnectionError:
            writer.transport.abort()

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._behind)
        self._ends += [writer, far_writer]
        await asyncio.gather(self._carry(reader, far_writer), self._carry(far_reader, writer))

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            if not self._stalled:
                writer.write(data)


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
    edge.write_targets(stand.settings, stand.directory, {**stand.settings.targets, **targets})


async def unlisted(stand: EdgeStand, deployable: str, port: int) -> None:
    async with asyncio.timeout(30):
        while f"{deployable}::127.0.0.1:{port}::" in await stand.admin("/clusters"):  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def healthy(stand: EdgeStand, deployable: str, *ports: int) -> None:
    async with asyncio.timeout(30):
        while True:
            text = await stand.admin("/clusters")
            lines = [f"{deployable}::127.0.0.1:{port}::health_flags::healthy" for port in ports]
            if all(line in text for line in lines):
                return
            await asyncio.sleep(0.1)
