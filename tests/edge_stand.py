"""An edge to test: the real Envoy with the real configuration, before upstreams that remember what reached them."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio
from joserfc import jwt
from joserfc.jwk import ECKey, Key

from chassis import contract
from meshctl.core.ports import Ports
from meshctl.edge import rendering
from tests import certificates as authority
from tests.patience import eventually

JWKS = "/protomesh.identity.v1.AuthService/GetJsonWebKeySet"
RATE_LIMIT = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit"
OWN_CALLS = (JWKS, RATE_LIMIT, "/opentelemetry.proto.collector.trace.v1.TraceService/Export")
WORKLOADS = [*sorted({method.deployable for method in contract.platform()}), "edge", "developer"]
Context = grpc.aio.ServicerContext[Any, Any]
Answer = Callable[[Any, Context], Awaitable[Any]]


@dataclass(frozen=True)
class Received:
    """A call as an upstream saw it."""

    path: str
    request: Any
    metadata: Mapping[str, str]
    workload: str
    remaining: float | None


@dataclass
class Upstream:
    """One worker that serves every contract: with the answer that a test gives, or with an empty message."""

    key: ECKey
    received: list[Received] = field(default_factory=list)
    asked: list[Received] = field(default_factory=list)
    answers: dict[str, Answer] = field(default_factory=dict)
    streams: dict[str, Callable[[Any, Context], Awaitable[None]]] = field(default_factory=dict)
    other_keys: Sequence[ECKey] = ()

    def forget(self) -> None:
        """Drops what was received, and answers again with empty messages."""
        self.received.clear()
        self.asked.clear()
        self.answers.clear()
        self.streams.clear()

    async def serve(self, certificates: Path, deployable: str, port: int) -> grpc.aio.Server:
        # As in chassis/rpc/server.py.
        server = grpc.aio.server(options=[("grpc.max_metadata_size", 16 * 1024)])
        server.add_generic_rpc_handlers((_Contracts(self),))
        health = health_aio.HealthServicer()
        await health.set("", health_pb2.HealthCheckResponse.SERVING)
        health_pb2_grpc.add_HealthServicer_to_server(health, server)
        pair = (
            (certificates / f"{deployable}.key").read_bytes(),
            (certificates / f"{deployable}.pem").read_bytes(),
        )
        authority = (certificates / "ca.pem").read_bytes()
        server.add_secure_port(f"127.0.0.1:{port}", grpc.ssl_server_credentials([pair], authority, True))
        await server.start()
        return server

    async def answer(self, path: str, request: Any, context: Context) -> Any:
        metadata = {
            key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)
        }
        names = context.auth_context().get("x509_subject_alternative_name", [])
        workload = next((n.decode().rpartition("/")[2] for n in names if n.startswith(b"spiffe://")), "")
        call = Received(path, request, metadata, workload, context.time_remaining())
        # The edge's own calls are apart from those that it passes on; of them, those to the limiter matter.
        if path == RATE_LIMIT:
            self.asked.append(call)
        elif path not in OWN_CALLS:
            self.received.append(call)
        if path == JWKS and path not in self.answers:
            return self._key_set(path)
        if path in self.answers:
            return await self.answers[path](request, context)
        return contract.method_at(path).response_class()

    def _key_set(self, path: str) -> Message:
        public = {name: str(value) for name, value in self.key.as_dict(private=False).items()}
        key_set: Any = contract.method_at(path).response_class()
        for key in (self.key, *self.other_keys):
            public = {name: str(value) for name, value in key.as_dict(private=False).items()}
            parts = {name: public[name] for name in ("kty", "crv", "x", "y", "kid")}
            key_set.keys.add(**parts, alg="ES256", use="sig")
        assert isinstance(key_set, Message)
        return key_set


class _Contracts(grpc.GenericRpcHandler):
    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> "grpc.RpcMethodHandler[Any, Any] | None":
        path = handler_call_details.method
        try:
            method = contract.method_at(path)
        except contract.ContractError:
            return None
        reads, writes = method.request_class.FromString, method.response_class.SerializeToString

        async def unary(request: Any, context: Context) -> Any:
            return await self._upstream.answer(path, request, context)

        async def stream(request: Any, context: Context) -> None:
            message = await self._upstream.answer(path, request, context)
            if path in self._upstream.streams:
                await self._upstream.streams[path](request, context)
            else:
                await context.write(message)

        if method.server_streaming:
            return grpc.unary_stream_rpc_method_handler(stream, reads, writes)
        return grpc.unary_unary_rpc_method_handler(unary, reads, writes)


@dataclass
class EdgeStand:
    """An edge that runs, and what stands behind it."""

    settings: rendering.EdgeSettings
    directory: Path
    upstream: Upstream
    http: httpx.AsyncClient
    process: asyncio.subprocess.Process
    expects_keys: bool = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.settings.port}"

    def token(
        self,
        *,
        key: Key | None = None,
        algorithm: str = "ES256",
        header: Mapping[str, Any] | None = None,
        **claims: Any,
    ) -> str:
        """A token as identity signs it, but for what a test changes; a claim of None is left out."""
        now = int(time.time())
        usual = {"iss": "protomesh", "aud": "protomesh", "sub": "user-1", "iat": now, "exp": now + 600}
        payload = {name: value for name, value in {**usual, **claims}.items() if value is not None}
        headers = {"alg": algorithm, "kid": self.upstream.key.kid, "typ": "at+jwt", **(header or {})}
        return jwt.encode(headers, payload, key or self.upstream.key, algorithms=[algorithm])

    def bearer(self, **claims: Any) -> dict[str, str]:
        return {"authorization": f"Bearer {self.token(**claims)}"}

    async def answers(self) -> bool:
        """Whether the edge takes requests."""
        try:
            return (await self.http.get("/healthz")).status_code == 200
        except httpx.TransportError:
            return False

    async def has_keys(self) -> bool:
        """Whether the edge has read identity's public keys."""
        counters = await self.admin("/stats?filter=jwks_fetch_success")
        return not counters.strip().endswith(" 0")

    async def eventually(self, status: int, path: str = "/v1/orders", seconds: float = 45) -> None:
        """Asks with a good token until the edge answers with this status. TimeoutError when it never does."""

        async def answered() -> bool:
            return (await self.http.get(path, headers=self.bearer())).status_code == status

        await eventually(answered, within=seconds)

    async def admin(self, path: str) -> str:
        transport = httpx.AsyncHTTPTransport(uds=str(self.settings.admin_socket))
        async with httpx.AsyncClient(transport=transport) as client:
            return (await client.get(f"http://edge{path}")).text


@asynccontextmanager
async def edge_stand(
    directory: Path,
    certificates: Path,
    *,
    without: Sequence[str] = (),
    targets: Mapping[str, str] | None = None,
    other_keys: Sequence[ECKey] = (),
    ready: bool = True,
    **settings: Any,
) -> AsyncIterator[EdgeStand]:
    """Starts upstreams for all deployables but `without` and those that `targets` names, and an edge before them.

    `other_keys` are published beside the signing key; `ready` False does not wait until the edge answers plain HTTP.
    """
    ports = Ports()
    upstream = Upstream(ECKey.generate_key("P-256", {"use": "sig", "kid": "key-1"}), other_keys=other_keys)
    named = dict(targets or {})
    async with AsyncExitStack() as stack:
        for deployable in sorted({method.deployable for method in contract.platform()} - set(named)):
            port = ports.take()
            named[deployable] = f"ipv4:127.0.0.1:{port}"
            if deployable not in without:
                server = await upstream.serve(certificates, deployable, port)
                stack.push_async_callback(server.stop, None)
        chosen = rendering.EdgeSettings(
            port=ports.take(),
            admin_socket=directory / "admin",
            metrics_port=ports.take(),
            certificates=certificates,
            targets=named,
            concurrency=1,
            **settings,
        )
        command = rendering.command(chosen, rendering.write(chosen, directory))
        log = stack.enter_context((directory / "envoy.log").open("w"))
        environment = {**os.environ, **rendering.environment()}
        process = await asyncio.create_subprocess_exec(*command, stdout=log, stderr=log, env=environment)
        stack.push_async_callback(_stop, process)
        client = await stack.enter_async_context(
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{chosen.port}")
        )
        has_identity = "identity" not in {*without, *(targets or {})}
        stand = EdgeStand(chosen, directory, upstream, client, process, has_identity)
        if ready:
            await _ready(stand, (directory / "envoy.log"))
        yield stand


async def _ready(stand: EdgeStand, log: Path) -> None:
    """Waits until the edge answers and, unless identity is missing, has its keys."""
    async with asyncio.timeout(60):
        while not await stand.answers() or (stand.expects_keys and not await stand.has_keys()):
            if stand.process.returncode is not None:
                raise RuntimeError(f"Envoy ended at once: {log.read_text()[-2000:]}")
            await asyncio.sleep(0.05)


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.terminate()
    await process.wait()


@pytest.fixture(scope="session")
def edge_certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a certificate for each workload of the mesh."""
    directory = tmp_path_factory.mktemp("certificates")
    authority.issue(directory, *WORKLOADS)
    return directory


@pytest.fixture(scope="session")
async def running_stand(
    tmp_path_factory: pytest.TempPathFactory, edge_certificates: Path
) -> AsyncIterator[EdgeStand]:
    """The edge that most tests share."""
    directory = tmp_path_factory.mktemp("edge")
    async with edge_stand(directory, edge_certificates, cors_origins=["https://shop.example"]) as stand:
        yield stand


@pytest.fixture
def stand(running_stand: EdgeStand) -> EdgeStand:
    """The shared edge, with upstreams that know nothing of other tests."""
    running_stand.upstream.forget()
    return running_stand
