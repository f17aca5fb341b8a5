"""Service ports, seen by somebody who is already inside the network: certificates, tokens, ownership, listeners."""

import base64
import hashlib
import hmac
import json
import secrets
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import httpx
import psutil
import pytest
from google.protobuf.message import Message
from joserfc import jwt
from joserfc.jwk import ECKey
from pydantic import SecretStr

from chassis import contract
from chassis.channels import MeshChannel
from chassis.contract import MethodContract
from chassis.database import Database
from chassis.errors import reason_of
from chassis.settings import Settings
from services.identity.settings import IdentitySettings
from services.identity.signing_keys import KeyRing
from tests.certificates import Authority
from tests.mesh import Mesh, User
from tests.shop import Shop, fresh_key

DEPLOYABLES = sorted({method.deployable for method in contract.platform()})
INTERNAL = [method for method in contract.platform() if method.access and method.access.kind == "internal"]
NOT_FOR_CUSTOMERS = [
    method
    for method in contract.platform()
    if method.access and method.access.kind == "permission" and "customer" not in method.access.granted_to
]
# One RPC of each service that wants a token.
WANT_A_TOKEN = [
    "/protomesh.identity.v1.UserService/GetMe",
    "/protomesh.catalog.v1.ProductService/ListAllProducts",
    "/protomesh.ordering.v1.OrderService/ListOrders",
    "/protomesh.projects.v1.ProjectService/ListProjects",
    "/protomesh.observer.v1.ObserverService/ListTraces",
]
QUOTE_PRICES = "/protomesh.catalog.v1.InventoryService/QuotePrices"
HEALTH = "/grpc.health.v1.Health/Check"
REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
TRACES = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"


def rpc_id(method: MethodContract) -> str:
    return method.path.rpartition(".")[2]


async def refusal(
    channel: Any, method: MethodContract, token: str = "", request: Message | None = None, **metadata: str
) -> tuple[str, str]:
    """How a call is refused, as (code, reason); ("OK", "") when it is not."""
    shape = channel.unary_stream if method.server_streaming else channel.unary_unary
    invoke = shape(method.path, method.request_class.SerializeToString, method.response_class.FromString)
    headers = [(name.replace("_", "-"), value) for name, value in metadata.items()]
    headers += [("authorization", f"Bearer {token}")] if token else []
    call = invoke(request or method.request_class(), timeout=10, metadata=headers)
    try:
        if method.server_streaming:
            await anext(aiter(call))
        else:
            await call
    except grpc.aio.AioRpcError as error:
        return error.code().name, reason_of(error)
    return "OK", ""


@pytest.fixture(scope="module")
async def anna(mesh: Mesh) -> User:
    return await mesh.sign_up()


@pytest.fixture(scope="module")
async def bert(mesh: Mesh) -> User:
    return await mesh.sign_up()


# Certificates


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
    async with channel:
        try:
            await channel.unary_unary(HEALTH)(b"", timeout=5)
        except grpc.aio.AioRpcError as error:
            assert error.code() is grpc.StatusCode.UNAVAILABLE
            return False
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
    for workload in {*DEPLOYABLES, "edge", "developer"} - method.access.callers:
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
        method = contract.method_at(QUOTE_PRICES)
        assert await refusal(channel, method) == ("PERMISSION_DENIED", "WORKLOAD_NOT_ALLOWED")


async def test_a_server_with_another_services_certificate_is_not_talked_to(mesh: Mesh) -> None:
    astray = {**mesh.targets, "catalog": mesh.targets["projects"]}
    method = contract.method_at(QUOTE_PRICES)
    for targets, expected in ((mesh.targets, "INVALID_ARGUMENT"), (astray, "UNAVAILABLE")):
        settings = Settings(service="ordering", tls_directory=mesh.folder.certificates, targets=targets)
        async with MeshChannel(settings) as channel:
            code, _ = await refusal(channel, method)
            assert code == expected


# Tokens

Mint = Callable[..., str]


@pytest.fixture(scope="module")
async def mint(mesh: Mesh, anna: User) -> Mint:
    """Makes tokens as identity does, with its real key, but for what a test changes; None leaves a claim out."""
    settings = IdentitySettings(
        service="identity",
        database_url=mesh.database_url("identity"),
        key_encryption_secret=SecretStr(mesh.folder.secrets().get("key_encryption_secret")),
    )
    async with Database.of(settings) as database:
        ring = KeyRing(database, settings)
        await ring.refresh()
        signer = ring.signer()
    usual = jwt.decode(anna.token, signer.private).claims

    def mint(header: Mapping[str, Any] | None = None, key: ECKey | None = None, **claims: Any) -> str:
        told = {name: value for name, value in {**usual, **claims}.items() if value is not None}
        headers = {"alg": "ES256", "typ": "at+jwt", "kid": signer.kid, **(header or {})}
        return jwt.encode(headers, told, key or signer.private, algorithms=["ES256"])

    return mint


def encoded(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()


def by_hand(header: Mapping[str, Any], token: str, secret: bytes = b"") -> str:
    """The claims of a token under another header, unsigned or signed with a shared secret."""
    text = f"{encoded(json.dumps(header).encode())}.{token.split('.')[1]}"
    return f"{text}.{encoded(hmac.new(secret, text.encode(), hashlib.sha256).digest()) if secret else ''}"


async def forgeries(mesh: Mesh, mint: Mint) -> dict[str, str]:
    """Tokens that are no good, each for one reason."""
    keys = (await mesh.http.get("/.well-known/jwks.json")).json()["keys"]
    kid = jwt.decode(mint(), ECKey.import_key(keys[0])).header["kid"]
    public = next(ECKey.import_key(key) for key in keys if key["kid"] == kid)
    header, stranger, now = {"typ": "at+jwt", "kid": kid}, ECKey.generate_key("P-256"), int(time.time())
    return {
        "expired": mint(iat=now - 700, exp=now - 100),
        "endless": mint(exp=None),
        "for another audience": mint(aud="another"),
        "for several audiences": mint(aud=["protomesh", "another"]),
        "of another issuer": mint(iss="another"),
        "of the future": mint(iat=now + 3600),
        "about nobody": mint(sub=""),
        "of another type": mint({"typ": "JWT"}),
        "signed by a stranger": mint(key=stranger),
        "with a key of its own": mint({"jwk": stranger.as_dict(private=False)}, stranger),
        "of an unknown key": mint({"kid": "unknown"}),
        "unsigned": by_hand({**header, "alg": "none"}, mint()),
        "signed with the public key": by_hand(
            {**header, "alg": "HS256"}, mint(), public.as_pem(private=False)
        ),
        "changed": mint()[:-8] + "AAAAAAAA",
        "no token at all": "nonsense",
    }


@pytest.mark.parametrize("workload", ["edge", "developer"])
@pytest.mark.parametrize("path", WANT_A_TOKEN, ids=lambda path: path.rpartition(".")[2])
async def test_a_service_checks_tokens_itself_whoever_passes_them_on(
    mesh: Mesh, mint: Mint, path: str, workload: str
) -> None:
    method, channel = contract.method_at(path), mesh.channel(workload)
    good = mint(scope="catalog.products.read_all observer.traces.read")
    assert await refusal(channel, method, good) == ("OK", "")
    assert await refusal(channel, method) == ("UNAUTHENTICATED", "TOKEN_MISSING")
    for kind, token in (await forgeries(mesh, mint)).items():
        assert await refusal(channel, method, token) == ("UNAUTHENTICATED", "TOKEN_INVALID"), kind


@pytest.mark.parametrize("method", NOT_FOR_CUSTOMERS, ids=rpc_id)
async def test_a_customer_gets_nowhere_with_what_is_for_staff(
    mesh: Mesh, anna: User, method: MethodContract
) -> None:
    denied = ("PERMISSION_DENIED", "PERMISSION_MISSING")
    assert await refusal(mesh.channel("developer"), method, anna.token) == denied
    spoofed = {"x_user_role": "admin", "x_user_id": secrets.token_hex(16), "x_forwarded_client_cert": "admin"}
    assert await refusal(mesh.channel("edge"), method, anna.token, **spoofed) == denied


async def test_metadata_that_names_a_user_makes_nobody_that_user(mesh: Mesh, anna: User) -> None:
    method, channel = (
        contract.method_at("/protomesh.identity.v1.UserService/GetMe"),
        mesh.channel("developer"),
    )
    spoofed = {"x_user_id": anna.id, "x_internal_user": anna.id, "x_forwarded_user": anna.id}
    assert await refusal(channel, method, **spoofed) == ("UNAUTHENTICATED", "TOKEN_MISSING")


async def test_who_is_not_the_edge_speaks_for_no_address(mesh: Mesh) -> None:
    bert, method = await mesh.sign_up(), contract.method_at("/protomesh.identity.v1.AuthService/LoginUser")
    request = method.request_class(email=bert.email, password="a wrong guess")  # noqa: S106
    channel = mesh.channel("developer")
    # Enough failures to make whoever comes from that address wait.
    refused = [await refusal(channel, method, request=request, x_forwarded_for="127.0.0.1") for _ in range(7)]
    assert refused[0] == ("UNAUTHENTICATED", "CREDENTIALS_INVALID")
    assert refused[-1] == ("RESOURCE_EXHAUSTED", "RATE_LIMITED")
    # The edge sees the tests at that address.
    assert await mesh.log_in(bert.email, bert.password)


# What is somebody else's


async def same_as_missing(
    mesh: Mesh, verb: str, path: str, owned: str, stranger: User, body: Mapping[str, Any] | None = None
) -> None:
    """A stranger is told of what is there exactly what they are told of what is not."""
    answers: list[httpx.Response] = [
        await mesh.http.request(verb, path.format(id=id_), json=body, headers=stranger.headers | fresh_key())
        for id_ in (owned, "0198f2a0-0000-7000-8000-000000000001")
    ]
    assert [answer.status_code for answer in answers] == [404, 404], answers[0].text
    assert answers[0].content == answers[1].content


async def test_somebody_elses_order_is_as_one_that_is_not_there(mesh: Mesh, anna: User, bert: User) -> None:
    shop = Shop(mesh)
    order = (await shop.ordered(anna, {await shop.new_product(units=2): 1}))["id"]
    await same_as_missing(mesh, "GET", "/v1/orders/{id}", order, bert)
    await same_as_missing(mesh, "GET", "/v1/orders/{id}:watch", order, bert)
    await same_as_missing(mesh, "POST", "/v1/orders/{id}:cancel", order, bert, {})
    assert (await shop.get(anna, order)).json()["status"] == "pending_payment"


async def test_somebody_elses_project_is_as_one_that_is_not_there(mesh: Mesh, anna: User, bert: User) -> None:
    body = {"name": "Attic", "description": "", "status": "active"}
    made = await mesh.http.post("/v1/projects", json=body, headers=anna.headers)
    project = made.json()["id"]
    await same_as_missing(mesh, "GET", "/v1/projects/{id}", project, bert)
    await same_as_missing(mesh, "PUT", "/v1/projects/{id}", project, bert, {"name": "Mine"})
    await same_as_missing(mesh, "DELETE", "/v1/projects/{id}", project, bert)
    await same_as_missing(mesh, "GET", "/v1/projects/{id}/members", project, bert)
    kept = await mesh.http.get(f"/v1/projects/{project}", headers=anna.headers)
    assert kept.json() == made.json()


async def test_somebody_else_is_as_nobody(mesh: Mesh, anna: User, bert: User) -> None:
    await same_as_missing(mesh, "GET", "/v1/users/{id}", anna.id, bert)
    await same_as_missing(mesh, "PUT", "/v1/users/{id}", anna.id, bert, {"first_name": "Mallory"})


# Listeners


@pytest.mark.parametrize(
    "path", [HEALTH, REFLECTION, REFLECTION.replace("v1alpha", "v1"), TRACES, *(m.path for m in INTERNAL)]
)
async def test_what_is_for_the_mesh_is_not_at_the_edge(mesh: Mesh, path: str) -> None:
    headers = [("authorization", f"Bearer {await mesh.admin_token()}")]
    async with grpc.aio.insecure_channel(mesh.edge_url.removeprefix("http://")) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await channel.unary_unary(path)(b"", metadata=headers, timeout=5)
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
        assert {address for address, _ in found} <= {"127.0.0.1", "::1"}, (state["name"], found)
