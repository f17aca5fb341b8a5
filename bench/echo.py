"""A bare grpc.aio echo against the same echo on the chassis with everything on, in one run.

Each side has its server and its client in processes of their own. "Everything": mTLS, a verified ES256 token,
validation, a sampled and exported span, metrics, access, deadline, health. Rounds alternate, so that a noisy
neighbour disturbs both alike.
"""

import asyncio
import datetime
import json
import multiprocessing
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Annotated, Any

import grpc
import typer
import uvloop
from joserfc import jwt
from joserfc.jwk import ECKey

from chassis import contract, telemetry
from chassis.identifiers import uuid7
from chassis.service import Service
from chassis.settings import Settings
from tests import certificates, protos

PATH = "/bench.v1.EchoService/Echo"
CONCURRENCY = 32
KEY_ID = "bench"


class _Keys:
    def __init__(self, key: ECKey) -> None:
        self._key = key

    async def key(self, kid: str) -> ECKey | None:
        return self._key if kid == KEY_ID else None


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
    _load()

    async def main() -> None:
        settings = _settings(directory, "bench", collector)
        service = Service(settings)
        service.token_keys = _Keys(ECKey.import_key(key))
        telemetry.set_up(settings, service.certificates)
        service.serve("bench.v1.EchoService", _Echo())
        await service.run(asyncio.Event(), ready.send)

    uvloop.run(main())


def serve_bare(ready: Connection, *_: object) -> None:
    """The echo on grpc.aio alone."""
    method = _load()

    async def echo(request: Any, _context: Any) -> Any:
        return request

    async def main() -> None:
        handler = grpc.unary_unary_rpc_method_handler(
            echo, method.request_class.FromString, method.response_class.SerializeToString
        )
        server = grpc.aio.server()
        service = grpc.method_handlers_generic_handler(method.service, {method.name: handler})
        server.add_generic_rpc_handlers((service,))
        ready.send(server.add_insecure_port("127.0.0.1:0"))
        await server.start()
        await server.wait_for_termination()

    uvloop.run(main())


def collect(ready: Connection) -> None:
    """Receives spans and drops them, as far away as a collector can be."""

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
    """Calls a second, from a fixed number of callers that each wait for their answer."""
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
    ports: dict[str, int], directory: pathlib.Path, token: str, rounds: int, seconds: float
) -> Any:
    method = _load()
    serializers = (method.request_class.SerializeToString, method.response_class.FromString)
    request = method.request_class(id=str(uuid7()), text="hello", number=1)
    ca, key, chain = (directory.joinpath(name).read_bytes() for name in ("ca.pem", "edge.key", "edge.pem"))
    secure = grpc.ssl_channel_credentials(ca, key, chain)
    override = (("grpc.ssl_target_name_override", "bench"),)
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    headers = (("authorization", f"Bearer {token}"), ("traceparent", trace))
    rates: dict[str, list[float]] = {"bare": [], "chassis": []}
    async with (
        grpc.aio.insecure_channel(f"127.0.0.1:{ports['bare']}") as bare,
        grpc.aio.secure_channel(f"127.0.0.1:{ports['chassis']}", secure, override) as chassis,
    ):
        plain = bare.unary_unary(PATH, *serializers)
        full = chassis.unary_unary(PATH, *serializers)
        sides: dict[str, Callable[[Any], Any]] = {
            "bare": plain,
            "chassis": lambda message: full(message, timeout=2, metadata=headers),
        }
        for invoke in sides.values():
            await _load_with(invoke, request, 1.0)  # warm
        for _ in range(rounds):
            for side, invoke in sides.items():
                rates[side].append(await _load_with(invoke, request, seconds))
    return rates


def _token(key: ECKey) -> str:
    now = int(time.time())
    claims = {"iss": "protomesh", "aud": "protomesh", "sub": str(uuid7()), "role": "customer"}
    times = {"iat": now, "exp": now + 600}
    header = {"alg": "ES256", "typ": "at+jwt", "kid": KEY_ID}
    return jwt.encode(header, claims | times | {"sid": str(uuid7()), "scope": "bench.echo"}, key)


def _start(target: Callable[..., None], *arguments: Any) -> tuple[Any, int]:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=target, args=(there, *arguments), daemon=True)
    process.start()
    if not here.poll(30):
        raise RuntimeError(f"{target.__name__} did not start.")
    return process, here.recv()


def compare(rounds: int = 5, seconds: float = 3.0) -> dict[str, Any]:
    """Both sides' calls a second, and their ratio (of medians)."""
    key = ECKey.generate_key("P-256")
    processes = []
    with tempfile.TemporaryDirectory() as folder:
        directory = pathlib.Path(folder)
        certificates.issue(directory, "bench", "edge")
        try:
            collector, collector_port = _start(collect)
            processes.append(collector)
            ports = {}
            for name, serve in (("bare", serve_bare), ("chassis", serve_chassis)):
                public: Any = key.as_dict(private=False)
                process, ports[name] = _start(serve, directory, public, f"127.0.0.1:{collector_port}")
                processes.append(process)
            rates = uvloop.run(_measure(ports, directory, _token(key), rounds, seconds))
        finally:
            for process in processes:
                process.terminate()
    bare, chassis = (statistics.median(rates[side]) for side in ("bare", "chassis"))
    return {
        "benchmark": "echo",
        "at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "bare_per_second": round(bare),
        "chassis_per_second": round(chassis),
        "ratio": round(chassis / bare, 3),
        "rounds": {side: [round(rate) for rate in values] for side, values in rates.items()},
    }


def main(
    rounds: Annotated[int, typer.Option(help="Rounds of each side.")] = 5,
    seconds: Annotated[float, typer.Option(help="Seconds of each round.")] = 3.0,
) -> None:
    """Measures, and prints the result as JSON."""
    print(json.dumps(compare(rounds, seconds), indent=2))


if __name__ == "__main__":
    typer.run(main)
