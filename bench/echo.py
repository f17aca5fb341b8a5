"""A bare grpc.aio echo against the same echo on the chassis with everything on, in one run.

Each side has a separate server process; one client calls them all, with the same request, headers and deadline.
"Everything": mTLS, a verified ES256 token, validation, a sampled and exported span, metrics, access, deadline, load
shedding, health. The bare echo is what a newcomer to grpc.aio writes. It is measured once more over the same mTLS, and
over mTLS in a process that is set up as the chassis's is, which shows the share of the transport and of the set-up.

Sides take turns in short rounds, and a ratio is the median over the rounds, so that a noisy neighbour disturbs all
alike.
"""

import asyncio
import contextlib
import datetime
import json
import multiprocessing
import os
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from multiprocessing.connection import Connection
from typing import Annotated, Any
from unittest import mock

import grpc
import typer
import uvloop
from joserfc import jwt
from joserfc.jwk import ECKey

from chassis import contract, process
from chassis.core import Settings, uuid7
from chassis.observe import exporter
from chassis.service import Service
from chassis.trust import Certificates
from tests import certificates, protos

PATH = "/bench.v1.EchoService/Echo"
CONCURRENCY = 32
TUNED = ("bare_tuned", "chassis")
KEY_ID = "bench"


class _Keys:
    def __init__(self, key: ECKey) -> None:
        self._key = key

    async def key(self, kid: str) -> ECKey | None:
        return self._key if kid == KEY_ID else None

    async def run(self) -> None:
        """Returns at once: the key never changes."""


class _Echo:
    async def Echo(self, request: Any, call: Any) -> Any:
        return request


def _load() -> contract.MethodContract:
    protos.load("echo.proto", pathlib.Path(__file__).with_name("echo.proto").read_text())
    return contract.method_at(PATH)


def _settings(directory: pathlib.Path, name: str, collector: str) -> Settings:
    return Settings(
        service=name,
        port=0,
        metrics_port=0,
        tls_directory=directory,
        otlp_endpoint=collector,
        otlp_server_name="",
        drain_wait_seconds=0,
    )


def serve_chassis(ready: Connection, directory: pathlib.Path, key: dict[str, Any], collector: str) -> None:
    """The echo on the chassis."""
    process.schedule_for_throughput()
    _load()

    async def main() -> None:
        settings = _settings(directory, "bench", collector)
        service = Service(settings)
        service.token_keys = _Keys(ECKey.import_key(key))
        exporter.set_up(settings, service.certificates)
        service.serve("bench.v1.EchoService", _Echo())
        await service.run(asyncio.Event(), ready.send)

    uvloop.run(main())


def serve_bare(ready: Connection, certificates: Certificates | None = None) -> None:
    """The echo on grpc.aio alone."""
    method = _load()

    async def echo(request: Any, _context: Any) -> Any:
        return request

    async def main() -> None:
        handler: Any = grpc.unary_unary_rpc_method_handler(
            echo, method.request_class.FromString, method.response_class.SerializeToString
        )
        server = grpc.aio.server()
        service = grpc.method_handlers_generic_handler(method.service, {method.name: handler})
        server.add_generic_rpc_handlers((service,))
        if certificates is None:
            ready.send(server.add_insecure_port("127.0.0.1:0"))
        else:
            ready.send(server.add_secure_port("127.0.0.1:0", certificates.server_credentials()))
        await server.start()
        await server.wait_for_termination()

    uvloop.run(main())


def serve_bare_mtls(ready: Connection, directory: pathlib.Path) -> None:
    """The echo on grpc.aio alone, for clients with a certificate."""
    serve_bare(ready, Certificates(directory, "bench"))


def serve_bare_tuned(ready: Connection, directory: pathlib.Path) -> None:
    """The bare echo over mTLS, in a process with the chassis's set-up."""
    process.schedule_for_throughput()
    serve_bare_mtls(ready, directory)


def collect(ready: Connection) -> None:
    """Receives spans and drops them, in a separate process like a real collector."""

    async def export(_request: bytes, _context: Any) -> bytes:
        return b""

    async def main() -> None:
        server = grpc.aio.server()
        handler: Any = grpc.unary_unary_rpc_method_handler(export)
        name = "opentelemetry.proto.collector.trace.v1.TraceService"
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, {"Export": handler}),))
        ready.send(server.add_insecure_port("127.0.0.1:0"))
        await server.start()
        await server.wait_for_termination()

    uvloop.run(main())


async def _load_with(invoke: Callable[[Any], Any], request: Any, seconds: float) -> float:
    """Returns calls per second from a fixed number of callers that each wait for the response."""
    until = time.perf_counter() + seconds

    async def caller() -> int:
        done = 0
        while time.perf_counter() < until:
            await invoke(request)
            done += 1
        return done

    begin = time.perf_counter()
    counts = await asyncio.gather(*(caller() for _ in range(CONCURRENCY)))
    return sum(counts) / (time.perf_counter() - begin)


async def _measure(
    ports: Mapping[str, int], directory: pathlib.Path, token: str, rounds: int, seconds: float
) -> dict[str, list[float]]:
    method = _load()
    request = method.request_class(id=str(uuid7()), text="hello", number=1)
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    headers = (("authorization", f"Bearer {token}"), ("traceparent", trace))
    rates: dict[str, list[float]] = {side: [] for side in ports}
    async with contextlib.AsyncExitStack() as channels:
        calls = {}
        for side, port in ports.items():
            channel = await channels.enter_async_context(_channel(side, port, directory))
            call: Any = channel.unary_unary(
                PATH, method.request_class.SerializeToString, method.response_class.FromString
            )
            calls[side] = partial(call, timeout=method.timeout, metadata=headers)
            await _load_with(calls[side], request, 1.0)  # warm
        for _ in range(rounds):
            for side, invoke in calls.items():
                rates[side].append(await _load_with(invoke, request, seconds))
    return rates


def _channel(side: str, port: int, directory: pathlib.Path) -> grpc.aio.Channel:
    if side == "bare":
        return grpc.aio.insecure_channel(f"127.0.0.1:{port}")
    credentials = Certificates(directory, "edge").channel_credentials()
    override = (("grpc.ssl_target_name_override", "bench"),)
    return grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials, override)


def _token(key: ECKey) -> str:
    now = int(time.time())
    claims = {"iss": "protomesh", "aud": "protomesh", "sub": str(uuid7()), "role": "customer"}
    times = {"iat": now, "exp": now + 600}
    header = {"alg": "ES256", "typ": "at+jwt", "kid": KEY_ID}
    return jwt.encode(header, claims | times | {"sid": str(uuid7()), "scope": "bench.echo"}, key)


def _start(target: Callable[..., None], *arguments: Any) -> tuple[Any, int]:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    child = context.Process(target=target, args=(there, *arguments), daemon=True)
    child.start()
    if not here.poll(30):
        raise RuntimeError(f"{target.__name__} did not start.")
    return child, here.recv()


def compare(rounds: int = 20, seconds: float = 0.5) -> dict[str, Any]:
    """Returns the calls per second of every side, and the chassis's ratio to the bare echo without and with mTLS."""
    key = ECKey.generate_key("P-256")
    public: Any = key.as_dict(private=False)
    servers = []
    with tempfile.TemporaryDirectory() as folder:
        directory = pathlib.Path(folder)
        certificates.issue(directory, "bench", "edge")
        try:
            collector, collector_port = _start(collect)
            servers.append(collector)
            sides: dict[str, tuple[Any, ...]] = {
                "bare": (serve_bare,),
                "bare_mtls": (serve_bare_mtls, directory),
                "bare_tuned": (serve_bare_tuned, directory),
                "chassis": (serve_chassis, directory, public, f"127.0.0.1:{collector_port}"),
            }
            ports = {}
            for side, (serve, *arguments) in sides.items():
                # gRPC reads it when the new process imports it.
                with mock.patch.dict(os.environ, process.ENVIRONMENT if side in TUNED else {}):
                    server, ports[side] = _start(serve, *arguments)
                servers.append(server)
            rates = uvloop.run(_measure(ports, directory, _token(key), rounds, seconds))
        finally:
            for server in servers:
                server.terminate()
    return {
        "benchmark": "echo",
        "at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        **{f"{side}_per_second": round(statistics.median(found)) for side, found in rates.items()},
        "ratio": _ratio(rates["chassis"], rates["bare"]),
        "ratio_to_mtls": _ratio(rates["chassis"], rates["bare_mtls"]),
        "ratio_to_tuned": _ratio(rates["chassis"], rates["bare_tuned"]),
        "rounds": {side: [round(rate) for rate in found] for side, found in rates.items()},
    }


def _ratio(one: list[float], other: list[float]) -> float:
    return round(statistics.median(a / b for a, b in zip(one, other, strict=True)), 3)


def main(
    rounds: Annotated[int, typer.Option(help="Rounds of each side.")] = 20,
    seconds: Annotated[float, typer.Option(help="Seconds of each round.")] = 0.5,
) -> None:
    """Measures, and prints the result as JSON."""
    print(json.dumps(compare(rounds, seconds), indent=2))


if __name__ == "__main__":
    typer.run(main)
