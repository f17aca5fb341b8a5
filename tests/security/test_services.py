"""Service ports, seen by somebody who is already inside the network: certificates, workloads, listeners."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import httpx
import psutil
import pytest

from chassis import contract
from chassis.contract import MethodContract
from chassis.core import Settings
from chassis.rpc import MeshChannel
from meshctl.core import deployables
from tests.certificates import Authority
from tests.mesh import Mesh
from tests.security.calls import refusal, rpc_id

DEPLOYABLES = sorted({method.deployable for method in contract.platform()})
INTERNAL = [method for method in contract.platform() if method.access and method.access.kind == "internal"]
RESERVE_STOCK = "/protomesh.catalog.v1.InventoryService/ReserveStock"
HEALTH = "/grpc.health.v1.Health/Check"
REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
TRACES = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"


def no_certificate(mesh: Mesh, _: Path) -> grpc.ChannelCredentials | None:
    return grpc.ssl_channel_credentials((mesh.folder.certificates / "ca.pem").read_bytes())


def plain_text(_mesh: Mesh, _directory: Path) -> grpc.ChannelCredentials | None:
    return None


def of_another_authority(mesh: Mesh, directory: Path) -> grpc.ChannelCredentials | None:
    Authority().issue(directory, "ordering")
    return credentials(mesh, directory)


def expired(mesh: Mesh, directory: Path) -> grpc.ChannelCredentials | None:
    Authority.of(mesh.folder.certificates).issue(directory, "ordering", life=-timedelta(hours=1))
    return credentials(mesh, directory)


def valid(mesh: Mesh, directory: Path) -> grpc.ChannelCredentials | None:
    Authority.of(mesh.folder.certificates).issue(directory, "ordering")
    return credentials(mesh, directory)


def credentials(mesh: Mesh, directory: Path) -> grpc.ChannelCredentials:
    """The certificate of a directory, and trust in the mesh's own authority."""
    authority = (mesh.folder.certificates / "ca.pem").read_bytes()
    key, chain = (directory / "ordering.key").read_bytes(), (directory / "ordering.pem").read_bytes()
    return grpc.ssl_channel_credentials(authority, key, chain)


async def healthy(mesh: Mesh, deployable: str, shown: grpc.ChannelCredentials | None) -> bool:
    """Whether a service's port answers at all who shows this."""
    target, name = mesh.targets[deployable], (("grpc.ssl_target_name_override", deployable),)
    channel = (
        grpc.aio.secure_channel(target, shown, name) if shown else grpc.aio.insecure_channel(target, name)
    )
    check: Any = channel.unary_unary(HEALTH)
    async with channel:
        try:
            await check(b"", timeout=5)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNAVAILABLE:
                return False
            raise
        return True


@pytest.mark.parametrize("deployable", DEPLOYABLES)
@pytest.mark.parametrize("show", [no_certificate, plain_text, of_another_authority, expired])
async def test_a_port_opens_only_to_a_certificate_of_the_mesh(
    mesh: Mesh,
    tmp_path: Path,
    deployable: str,
    show: Callable[[Mesh, Path], grpc.ChannelCredentials | None],
) -> None:
    assert not await healthy(mesh, deployable, show(mesh, tmp_path))
    assert await healthy(mesh, deployable, valid(mesh, tmp_path))


@pytest.mark.parametrize("method", INTERNAL, ids=rpc_id)
async def test_an_internal_rpc_is_closed_to_all_workloads_that_its_contract_does_not_list(
    mesh: Mesh, method: MethodContract
) -> None:
    assert method.access is not None
    denied = ("PERMISSION_DENIED", "WORKLOAD_NOT_ALLOWED")
    for workload in {*DEPLOYABLES, "edge", *deployables.PEOPLE} - method.access.callers:
        assert await refusal(mesh.channel(workload), method) == denied, workload
    # Nor is it a matter of the user's role.
    assert await refusal(mesh.channel("developer"), method, await mesh.admin_token()) == denied


@pytest.mark.parametrize(
    "identities",
    [
        ["spiffe://elsewhere.local/ordering"],
        ["spiffe://protomesh.local/projects"],
        ["spiffe://protomesh.local/ordering/else"],
        ["spiffe://protomesh.local/projects", "spiffe://protomesh.local/ordering"],
        ["spiffe://protomesh.local.evil.example/ordering"],
        ["https://protomesh.local/ordering"],
    ],
)
async def test_a_workload_is_its_one_spiffe_id_whatever_else_its_certificate_says(
    mesh: Mesh, tmp_path: Path, identities: list[str]
) -> None:
    # The subject and the DNS names say `ordering`, which may call this.
    Authority.of(mesh.folder.certificates).issue(tmp_path, "ordering", identities=identities)
    settings = Settings(service="ordering", tls_directory=tmp_path, targets=mesh.targets)
    async with MeshChannel(settings) as channel:
        method = contract.method_at(RESERVE_STOCK)
        assert await refusal(channel, method) == ("PERMISSION_DENIED", "WORKLOAD_NOT_ALLOWED")


async def test_a_server_with_another_services_certificate_is_not_talked_to(mesh: Mesh) -> None:
    astray = {**mesh.targets, "catalog": mesh.targets["projects"]}
    method = contract.method_at(RESERVE_STOCK)
    for targets, expected in ((mesh.targets, "INVALID_ARGUMENT"), (astray, "UNAVAILABLE")):
        settings = Settings(service="ordering", tls_directory=mesh.folder.certificates, targets=targets)
        async with MeshChannel(settings) as channel:
            code, _ = await refusal(channel, method)
            assert code == expected


@pytest.mark.parametrize(
    "path", [HEALTH, REFLECTION, REFLECTION.replace("v1alpha", "v1"), TRACES, *(m.path for m in INTERNAL)]
)
async def test_what_is_for_the_mesh_is_not_at_the_edge(mesh: Mesh, path: str) -> None:
    headers = [("authorization", f"Bearer {await mesh.admin_token()}")]
    async with grpc.aio.insecure_channel(mesh.edge_url.removeprefix("http://")) as channel:
        call: Any = channel.unary_unary(path)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call(b"", metadata=headers, timeout=5)
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
    posted = await mesh.http.post(path, json={}, headers=dict(headers))
    assert posted.status_code == 404


def listeners(pid: int) -> set[tuple[str, int]]:
    """Where a process and its children listen."""
    process = psutil.Process(pid)
    return {
        (connection.laddr.ip, connection.laddr.port)
        for member in (process, *process.children(recursive=True))
        for connection in member.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }


async def test_every_process_listens_on_loopback_only(mesh: Mesh) -> None:
    await mesh.healthy()
    for state in mesh.status():
        found = listeners(state["pid"])
        ports = {state["port"], httpx.URL(state["metrics_url"]).port} - {None}
        assert ports <= {port for _, port in found}, state["name"]
        assert all(address.removeprefix("::ffff:") in ("127.0.0.1", "::1") for address, _ in found), found
