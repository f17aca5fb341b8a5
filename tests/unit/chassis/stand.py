"""A service on a contract of its own, with real certificates, tokens and connections."""

import asyncio
import contextlib
import pathlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc
from google.protobuf import message_factory
from joserfc import jwt
from joserfc.jwk import ECKey
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from chassis import contract
from chassis.core import Settings, Worker, errors
from chassis.rpc import Call, MeshChannel
from chassis.service import Service
from chassis.trust import KeySource
from tests import protos

FILES = protos.compiled("scratch.proto", pathlib.Path(__file__).with_name("scratch.proto").read_text())
SERVICE = "scratch.v1.ScratchService"
Thing: Any = message_factory.GetMessageClass(
    contract.service_descriptor(SERVICE).methods_by_name["Open"].input_type
)
Things: Any
Goods: Any
Sheet: Any
Things, Goods, Sheet = (
    contract.method_at(f"/{SERVICE}/{name}").response_class for name in ("OwnList", "Shelf", "Folder")
)

Part: Any = message_factory.GetMessageClass(Thing.DESCRIPTOR.fields_by_name["parts"].message_type)

KEY_ID = "one"
KEY = ECKey.generate_key("P-256")


class Keys:
    """The keys that tokens are verified with; counts how often one was asked for."""

    def __init__(self) -> None:
        self.keys = {KEY_ID: KEY}
        self.asked = 0

    async def key(self, kid: str) -> ECKey | None:
        self.asked += 1
        return self.keys.get(kid)

    async def run(self) -> None:
        """They never change."""


def token(
    *, header: dict[str, Any] | None = None, key: Any = KEY, algorithms: Any = None, **claims: Any
) -> str:
    """A good access token, but for what is given."""
    now = int(time.time())
    good = {
        "iss": "protomesh",
        "aud": "protomesh",
        "sub": "11111111-1111-7111-8111-111111111111",
        "sid": "22222222-2222-7222-8222-222222222222",
        "role": "staff",
        "scope": "scratch.write scratch.read",
        "iat": now,
        "exp": now + 600,
    }
    parts = {"alg": "ES256", "typ": "at+jwt", "kid": KEY_ID, **(header or {})}
    return jwt.encode(parts, good | claims, key, algorithms=algorithms)


def bearer(text: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {text}"),)


class Scratch:
    """The servicer. What it saw of the last call is in `call`."""

    def __init__(self) -> None:
        self.call: Any = None
        self.workload = self.address = ""
        self.mesh: Any = None
        self.started = asyncio.Event()
        self.asked = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.failures = self.failed = 0
        self.error: BaseException = RuntimeError("secret text")
        self.request: Any = None

    async def _echo(self, request: Any, call: Call) -> Any:
        self.call, self.request = call, request
        self.asked.set()
        self.workload, self.address = call.caller.workload, call.address
        return request

    Open = Mine = Write = Inner = Anybody = Untraced = Cached = Small = Own = Shelf = Folder = Put = _echo

    async def OwnList(self, request: Any, call: Call) -> Any:
        return Things(data=[await self._echo(request, call)])

    async def Nothing(self, request: Any, call: Call) -> Any:
        return None

    async def Slow(self, request: Any, call: Call) -> Any:
        self.call = call
        self.started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise

    async def Fail(self, request: Any, call: Call) -> Any:
        self.failed += 1
        raise self.error

    async def Onward(self, request: Any, call: Call) -> Any:
        self.call = call
        return await method(self.mesh, request.text or "Inner")(Thing(text="inner"))

    async def Read(self, request: Any, call: Call) -> Any:
        if self.failures:
            self.failures -= 1
            raise errors.unavailable()
        return request

    async def Watch(self, request: Any, call: Call) -> AsyncIterator[Any]:
        try:
            for number in range(request.count):
                yield Thing(count=number)
            if request.text == "fail":
                raise errors.NotFound("GONE", "It is gone.")
            if request.text == "hold":
                self.started.set()
                await asyncio.Event().wait()
        finally:
            self.cancelled.set()

    async def Collect(self, requests: AsyncIterator[Any], call: Call) -> Any:
        return Thing(count=sum([request.count async for request in requests]))

    async def Chat(self, requests: AsyncIterator[Any], call: Call) -> AsyncIterator[Any]:
        async for request in requests:
            yield Thing(text=request.text.upper())


def method(channel: Any, name: str) -> Any:
    """What a generated stub has as its method."""
    found = contract.method_at(f"/{SERVICE}/{name}")
    shape = (
        f"{'stream' if found.client_streaming else 'unary'}_{'stream' if found.server_streaming else 'unary'}"
    )
    return getattr(channel, shape)(
        found.path, found.request_class.SerializeToString, found.response_class.FromString
    )


class Stand:
    """A running service, and channels to it by workload."""

    service: Service
    scratch: Scratch
    keys: Keys

    def __init__(self, directory: pathlib.Path | None, port: int) -> None:
        self.directory = directory
        self.port = port
        self.stop = asyncio.Event()
        self.ended = asyncio.Event()
        self._parts = contextlib.AsyncExitStack()

    def channel(self, workload: str = "edge", **settings: Any) -> MeshChannel:
        values: dict[str, Any] = {
            "service": workload,
            "tls_directory": self.directory,
            "targets": {"scratch": f"ipv4:127.0.0.1:{self.port}"},
        }
        channel = MeshChannel(Settings(**(values | settings)))
        self._parts.push_async_callback(channel.close)
        return channel

    def plain(self, workload: str = "edge") -> grpc.aio.Channel:
        """A channel that adds nothing."""
        assert self.directory is not None
        ca, key, chain = (
            self.directory.joinpath(name).read_bytes()
            for name in ("ca.pem", f"{workload}.key", f"{workload}.pem")
        )
        credentials = grpc.ssl_channel_credentials(ca, key, chain)
        options = (("grpc.ssl_target_name_override", "scratch"),)
        channel = grpc.aio.secure_channel(f"127.0.0.1:{self.port}", credentials, options)
        self._parts.push_async_callback(channel.close)
        return channel

    async def close(self) -> None:
        await self._parts.aclose()


@asynccontextmanager
async def running(
    directory: pathlib.Path | None,
    workers: Sequence[Worker] = (),
    token_keys: KeySource | None = None,
    servicer: Callable[[Service], Scratch] = lambda _: Scratch(),
    **settings: Any,
) -> AsyncIterator[Stand]:
    """The service, until the block ends."""
    values: dict[str, Any] = {"service": "scratch", "port": 0, "tls_directory": directory}
    values |= {"drain_wait_seconds": 0} | settings
    service, keys = Service(Settings(**values)), Keys()
    scratch = servicer(service)
    service.token_keys = token_keys or keys
    service.serve(SERVICE, scratch)
    for worker in workers:
        service.background(worker)
    stand = Stand(directory, 0)
    stand.service, stand.scratch, stand.keys = service, scratch, keys
    port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    task = asyncio.ensure_future(service.run(stand.stop, port.set_result))
    task.add_done_callback(lambda _: stand.ended.set())
    waiting: set[asyncio.Future[Any]] = {task, port}
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        task.result()
    stand.port = await port
    scratch.mesh = stand.channel("scratch")
    try:
        yield stand
    finally:
        await stand.close()
        stand.stop.set()
        await task


class Spans:
    """Every span that the process recorded."""

    def __init__(self) -> None:
        self.all: list[Span] = []

    def take(self, request: ExportTraceServiceRequest) -> None:
        for resource in request.resource_spans:
            for scope in resource.scope_spans:
                self.all.extend(scope.spans)
