"""Whom the edge trusts and who trusts it: token keys, mutual TLS with the services, TLS with clients."""

import asyncio
import ssl
import uuid
import warnings
from pathlib import Path
from typing import Any

import httpx
import pytest
from joserfc.jwk import ECKey

from meshctl.core.ports import Ports
from tests import certificates
from tests.edge_stand import WORKLOADS, edge_stand


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
        await stand.eventually(200)
        await server.stop(None)


async def test_a_key_that_was_published_before_its_use_is_known(
    tmp_path: Path, edge_certificates: Path
) -> None:
    coming = ECKey.generate_key("P-256", {"use": "sig", "kid": "key-2"})
    async with edge_stand(tmp_path, edge_certificates, other_keys=[coming]) as stand:
        header = {"kid": "key-2"}
        response = await stand.http.get("/v1/orders", headers=stand.bearer(key=coming, header=header))
        assert response.status_code == 200


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


def mount(folder: Path) -> None:
    """Issues certificates into a folder as Kubernetes mounts a secret: with one rename all files are new ones."""
    version = folder / f"..{uuid.uuid4().hex}"
    version.mkdir(parents=True)
    certificates.issue(version, *WORKLOADS)
    for file in version.iterdir():
        link = folder / file.name
        if not link.is_symlink():
            link.symlink_to(Path("..data", file.name))
    fresh = folder / "..data_tmp"
    fresh.symlink_to(version.name)
    fresh.replace(folder / "..data")


async def test_new_certificates_are_taken_without_a_restart(tmp_path: Path) -> None:
    folder = tmp_path / "certificates"
    mount(folder)
    port = Ports().take()
    async with edge_stand(tmp_path / "edge", folder, targets={"ordering": f"ipv4:127.0.0.1:{port}"}) as stand:
        server = await stand.upstream.serve(folder, "ordering", port)
        await stand.eventually(200)
        await server.stop(None)
        mount(folder)
        server = await stand.upstream.serve(folder, "ordering", port)
        # Whoever failed between the two may be left out for a minute.
        await stand.eventually(200, seconds=90)
        await server.stop(None)


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
        transport_security="max-age=60; includeSubDomains",
    ) as stand:
        trusted = ssl.create_default_context(cafile=str(public_certificate / "ca.pem"))
        url = f"https://localhost:{stand.settings.port}"
        async with httpx.AsyncClient(base_url=url, verify=trusted) as client:
            response = await until_it_answers(client, "/healthz")
            assert response.headers["strict-transport-security"] == "max-age=60; includeSubDomains"
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
