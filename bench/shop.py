"""The edge against a FastAPI service: the same endpoints, the same tables, the same load, in one run.

Each side has the whole machine: two workers of what serves, one after the other, in rounds that alternate. The
edge's side carries Envoy, JWT, transcoding, mTLS, validation, tracing and the read; the peer's side, bench/peers.
"""

import asyncio
import contextlib
import itertools
import json
import os
import random
import socket
import statistics
import sys
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass

from bench.http_load import LoadResult, load, request_bytes
from bench.mesh import ROOT, BenchMesh
from bench.report import Figure, Report
from meshctl.mesh.ports import Ports

WORKERS = 2
CONNECTIONS = 32
ROUNDS = 3

Requests = Callable[[], bytes]


@dataclass(frozen=True)
class Endpoint:
    """What is measured: its name, and its requests given a base URL."""

    name: str
    requests: Callable[[str], Requests]


async def measure(mesh: BenchMesh, report: Report, seconds: float) -> None:
    """Measures every endpoint on both sides."""
    async with _peer(mesh) as peer_url:
        sides = {f"edge, {WORKERS} workers": mesh.edge_url, f"FastAPI, {WORKERS} workers": peer_url}
        for endpoint in _endpoints(mesh):
            await _compare(endpoint, sides, report, seconds)


def _endpoints(mesh: BenchMesh) -> list[Endpoint]:
    # The signed-in forms: on a public RPC the edge would have no token to verify.
    headers = _signed_in(mesh.admin_token)
    shuffled = random.Random(7).sample(mesh.product_ids, len(mesh.product_ids))

    def get(base: str) -> Requests:
        cycle = itertools.cycle(
            [
                request_bytes("GET", f"{base}/v1/products/{product}:any", headers=headers)
                for product in shuffled
            ]
        )
        return lambda: next(cycle)

    def list_of_20(base: str) -> Requests:
        request = request_bytes("GET", f"{base}/v1/products:all?limit=20", headers=headers)
        return lambda: request

    def order(base: str) -> Requests:
        ids, buyers = itertools.cycle(shuffled), itertools.cycle(mesh.tokens)

        def one() -> bytes:
            lines = [{"product_id": next(ids), "quantity": 1}]
            keyed = _signed_in(next(buyers)) | {"idempotency-key": str(uuid.uuid4())}
            body = json.dumps({"lines": lines}).encode()
            return request_bytes("POST", f"{base}/v1/orders", headers=keyed, body=body)

        return one

    return [
        Endpoint("GET /v1/products/{id}:any", get),
        Endpoint("GET /v1/products:all?limit=20", list_of_20),
        Endpoint("POST /v1/orders", order),
    ]


def _signed_in(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


async def _compare(endpoint: Endpoint, sides: dict[str, str], report: Report, seconds: float) -> None:
    runs: dict[str, list[LoadResult]] = {side: [] for side in sides}
    for side_url in sides.values():
        await load(side_url, endpoint.requests(side_url), connections=CONNECTIONS, seconds=1.0)  # warm
    for _ in range(ROUNDS):
        for side, url in sides.items():
            result = await load(url, endpoint.requests(url), connections=CONNECTIONS, seconds=seconds)
            runs[side].append(result)
    edge, peer = (_figure(f"{endpoint.name}: {side}", results) for side, results in runs.items())
    report.add(peer)
    report.add(edge, peer=peer)


def _figure(name: str, results: list[LoadResult]) -> Figure:
    middle = sorted(results, key=lambda result: result.requests_per_second)[len(results) // 2]
    errors = sum(
        count for result in results for status, count in result.statuses.items() if not 200 <= status < 300
    )
    return Figure(
        name,
        statistics.median(result.requests_per_second for result in results),
        p50_ms=middle.percentile_ms(50),
        p99_ms=middle.percentile_ms(99),
        errors=errors,
    )


@contextlib.asynccontextmanager
async def _peer(mesh: BenchMesh) -> AsyncIterator[str]:
    port = Ports().take()
    environment = os.environ | {
        "BENCH_DATABASE_URL": mesh.wiring["database_urls"]["catalog"],
        "BENCH_OTLP_ENDPOINT": mesh.wiring["targets"]["observer"],
        "BENCH_TLS_DIRECTORY": str(mesh.folder.certificates),
        "BENCH_JWKS": mesh.jwks,
    }
    command = (sys.executable, "-m", "uvicorn", "bench.peers.fastapi_shop:app", "--host", "127.0.0.1")
    options = ("--port", str(port), "--workers", str(WORKERS), "--no-access-log", "--log-level", "warning")
    process = await asyncio.create_subprocess_exec(*command, *options, cwd=ROOT, env=environment)
    try:
        await _listening(port)
        yield f"http://127.0.0.1:{port}"
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def _listening(port: int) -> None:
    for _ in _attempts():
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.2):
            return
        await asyncio.sleep(0.1)
    raise TimeoutError("The peer did not start.")


def _attempts() -> Iterator[int]:
    return iter(range(300))
