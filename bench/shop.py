"""The edge against FastAPI and Fastify: the same endpoints, the same tables, the same load, in one run.

Each side has the whole machine: two workers of what serves, one side after the other, in rounds that alternate, so
that a noisy neighbor disturbs all alike. A ratio is the median over the rounds. The edge's side carries Envoy, JWT,
transcoding, mTLS, validation, tracing and the read; bench/peers says what the peers carry.
"""

import contextlib
import itertools
import json
import random
import statistics
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from rich.console import Console

from bench import cpu, mesh
from bench.goals import EDGE, FASTAPI, FASTIFY, LOGIN, ORDER, PRODUCT, PRODUCTS
from bench.http_load import LoadResult, load, request_bytes
from bench.mesh import BenchMesh
from bench.peers import running
from bench.report import Figure, Report

CONNECTIONS = 32
ROUNDS = 3

Requests = Callable[[], bytes]


@dataclass(frozen=True)
class Endpoint:
    """An endpoint to measure: its name, its requests for a base URL, and the sides that have it."""

    name: str
    requests: Callable[[str], Requests]
    sides: tuple[str, ...] = (EDGE, FASTAPI, FASTIFY)


@dataclass
class Side:
    """A side of the comparison: its processes, and the results of its rounds."""

    name: str
    url: str
    processes: Mapping[str, int]
    rounds: list[LoadResult] = field(default_factory=list)
    cpu_us: list[dict[str, float]] = field(default_factory=list)

    @property
    def rates(self) -> list[float]:
        return [result.requests_per_second for result in self.rounds]

    async def take_turn(self, requests: Requests, seconds: float) -> None:
        """Runs one round of load."""
        before = cpu.spent(self.processes)
        result = await load(self.url, requests, connections=CONNECTIONS, seconds=seconds)
        self.cpu_us.append(cpu.per_request(before, cpu.spent(self.processes), len(result.latencies)))
        self.rounds.append(result)


async def measure(target: BenchMesh, report: Report, console: Console, seconds: float) -> None:
    """Measures every endpoint on every side that can run here."""
    async with contextlib.AsyncExitStack() as peers:
        found = [await peers.enter_async_context(running.fastapi(target))]
        if missing := running.why_no_fastify():
            console.print(missing)
        else:
            found.append(await peers.enter_async_context(running.fastify(target)))
            mesh.register_buyers(found[-1].url)
        of_mesh = target.processes()
        urls = {EDGE: (target.edge_url, of_mesh)}
        for peer in found:
            urls[peer.name] = (peer.url, {peer.name: peer.pid, "PostgreSQL": of_mesh["PostgreSQL"]})
        for endpoint in _endpoints(target):
            sides = [Side(name, *urls[name]) for name in endpoint.sides if name in urls]
            await _compare(endpoint, sides, report, seconds)


async def _compare(endpoint: Endpoint, sides: list[Side], report: Report, seconds: float) -> None:
    requests = {side.name: endpoint.requests(side.url) for side in sides}
    for side in sides:
        await load(side.url, requests[side.name], connections=CONNECTIONS, seconds=1.0)  # warm
    for _ in range(ROUNDS):
        for side in sides:
            await side.take_turn(requests[side.name], seconds)
    edge, *peers = sides
    for peer in peers:
        report.add(_figure(endpoint, peer))
    report.add(_figure(endpoint, edge), against={_name(endpoint, peer): _share(edge, peer) for peer in peers})


def _share(side: Side, peer: Side) -> float:
    return statistics.median(mine / its for mine, its in zip(side.rates, peer.rates, strict=True))


def _name(endpoint: Endpoint, side: Side) -> str:
    return f"{endpoint.name}: {side.name}"


def _figure(endpoint: Endpoint, side: Side) -> Figure:
    middle = sorted(side.rounds, key=lambda result: result.requests_per_second)[len(side.rounds) // 2]
    return Figure(
        _name(endpoint, side),
        statistics.median(side.rates),
        p50_ms=middle.percentile_ms(50),
        p99_ms=middle.percentile_ms(99),
        errors=sum(result.errors for result in side.rounds),
        cpu_us=cpu.median(side.cpu_us),
    )


def _endpoints(target: BenchMesh) -> list[Endpoint]:
    # The forms for signed-in callers: on a public RPC the edge verifies no token.
    headers = _signed_in(target.admin_token)
    shuffled = random.Random(7).sample(target.product_ids, len(target.product_ids))

    def get(base: str) -> Requests:
        paths = (f"{base}/v1/products/{product}:any" for product in shuffled)
        cycle = itertools.cycle([request_bytes("GET", path, headers=headers) for path in paths])
        return lambda: next(cycle)

    def list_of_20(base: str) -> Requests:
        request = request_bytes("GET", f"{base}/v1/products:all?limit=20", headers=headers)
        return lambda: request

    def order(base: str) -> Requests:
        ids, buyers = itertools.cycle(shuffled), itertools.cycle(target.tokens)

        def one() -> bytes:
            lines = [{"product_id": next(ids), "quantity": 1}]
            keyed = _signed_in(next(buyers)) | {"idempotency-key": str(uuid.uuid4())}
            body = json.dumps({"lines": lines}).encode()
            return request_bytes("POST", f"{base}/v1/orders", headers=keyed, body=body)

        return one

    def login(base: str) -> Requests:
        bodies = [json.dumps(mesh.credentials(number)).encode() for number in range(mesh.BUYERS)]
        cycle = itertools.cycle(
            [request_bytes("POST", f"{base}{mesh.LOGIN_PATH}", body=body) for body in bodies]
        )
        return lambda: next(cycle)

    return [
        Endpoint(PRODUCT, get),
        Endpoint(PRODUCTS, list_of_20),
        Endpoint(ORDER, order),
        Endpoint(LOGIN, login, sides=(EDGE, FASTIFY)),
    ]


def _signed_in(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}
