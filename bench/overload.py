"""Overload: how much of a load beyond its capacity the mesh still serves in time, and how it refuses the rest.

`python -m bench.overload` measures reads and orders: first the peak rate for clients that wait for their responses,
then the rate under one, two and three times that load from clients that do not wait, then how soon the mesh recovers.
"""

import asyncio
import itertools
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any, cast
from urllib.parse import urlsplit
from uuid import uuid4

import typer
import uvloop
from rich.console import Console
from rich.table import Table

from bench import cpu, http_load, mesh

CROWD, CLIENTS = 48, 800
# The ramp-up of a rush, until it reaches its rate, is not counted.
FILLING_SECONDS = 2.0
# A client no longer waits for a response that comes later.
PATIENCE = {"reads": 2.0, "orders": 10.0}
_REASON = re.compile(rb'"reason": ?"(\w+)"')


@dataclass(slots=True)
class Seen:
    """The results of a run: for each response its arrival time, its status, and its latency."""

    answers: list[tuple[float, int, float]] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)
    asked: int = 0

    def good(self, patience: float, since: float = 0.0) -> list[float]:
        """Returns the latencies of responses in time, from that moment on."""
        return [
            took for at, status, took in self.answers if status < 300 and took <= patience and at >= since
        ]

    def refused(self) -> list[float]:
        """Returns the latencies of refusals."""
        return [took for _, status, took in self.answers if status == 429]


class _Client(asyncio.Protocol):
    """A connection that sends a request when told to, unless it still waits for a response."""

    def __init__(self, requests: Callable[[], bytes], seen: Seen) -> None:
        self._requests, self._seen = requests, seen
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None
        self._sent = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        status = http_load.complete(self._buffer)
        if status is not None:
            now = time.perf_counter()
            self._seen.answers.append((now, status, now - self._sent))
            self._seen.reasons[f"{status} {_reason(self._buffer)}".strip()] += 1
            self._buffer.clear()
            self._sent = 0.0

    def ask(self) -> None:
        if self._transport is not None and not self._sent:
            self._seen.asked += 1
            self._sent = time.perf_counter()
            self._transport.write(self._requests())

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


async def offer(url: str, requests: Callable[[], bytes], *, per_second: float, seconds: float) -> Seen:
    """Sends requests at a rate from many connections, without waiting for responses."""
    seen, parts, loop = Seen(), urlsplit(url), asyncio.get_running_loop()
    clients = [_Client(requests, seen) for _ in range(CLIENTS)]
    for client in clients:
        await loop.create_connection(
            partial(_itself, client), parts.hostname or "127.0.0.1", parts.port or 80
        )
    turns = itertools.cycle(clients)
    began, asked = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - began) < seconds:
        for _ in range(int(elapsed * per_second) - asked):
            next(turns).ask()
            asked += 1
        await asyncio.sleep(0.002)
    for client in clients:
        client.close()
    return seen


def _itself(client: _Client) -> _Client:
    return client


@dataclass(frozen=True)
class Kind:
    """One kind of load: its requests, and how long a client waits for a response."""

    name: str
    url: str
    requests: Callable[[], bytes]

    @property
    def patience(self) -> float:
        return PATIENCE[self.name]


def kinds(running: mesh.BenchMesh) -> list[Kind]:
    reads = itertools.cycle(
        http_load.request_bytes("GET", f"{running.edge_url}/v1/products/{product}")
        for product in running.product_ids[:200]
    )
    buyers, products = itertools.cycle(running.tokens), itertools.cycle(running.product_ids)

    def order() -> bytes:
        headers = {"authorization": f"Bearer {next(buyers)}", "idempotency-key": str(uuid4())}
        body = f'{{"lines":[{{"product_id":"{next(products)}","quantity":1}}]}}'.encode()
        return http_load.request_bytes("POST", f"{running.edge_url}/v1/orders", headers=headers, body=body)

    return [
        Kind("reads", running.edge_url, partial(next, reads)),
        Kind("orders", running.edge_url, order),
    ]


@dataclass
class Step:
    """One step of a measurement: the rate of responses in time, and their cost to the mesh in CPU time."""

    asked: str
    good: list[float]
    rate: float
    cpu_us: dict[str, float]
    refused: list[float] = field(default_factory=list)
    told: str = ""

    @property
    def cost(self) -> float:
        return sum(self.cpu_us.values())


@dataclass(frozen=True)
class Measurement:
    """Measures one kind of load on a running mesh."""

    running: mesh.BenchMesh
    kind: Kind
    seconds: float

    async def crowd(self, connections: int) -> Step:
        """Measures clients that each wait for the response before the next request."""
        before = self._spent()
        seen = await http_load.load(
            self.kind.url, self.kind.requests, connections=connections, seconds=self.seconds
        )
        good = sum(count for status, count in seen.statuses.items() if status < 300)
        cost = cpu.per_request(before, self._spent(), good)
        return Step(
            f"{connections} clients", seen.latencies, good / seen.seconds, cost, told=_told(seen.statuses)
        )

    async def rush(self, asked: str, per_second: float) -> Step:
        """Measures a rate of requests that does not depend on responses."""
        before, full = self._spent(), time.perf_counter() + FILLING_SECONDS
        seen = await offer(
            self.kind.url, self.kind.requests, per_second=per_second, seconds=self.seconds + FILLING_SECONDS
        )
        cost = cpu.per_request(before, self._spent(), len(seen.good(self.kind.patience)))
        good = seen.good(self.kind.patience, full)
        return Step(asked, good, len(good) / self.seconds, cost, seen.refused(), _told(seen.reasons))

    async def after(self, per_second: float) -> Step:
        """Measures a light load right after a rush, and when the last bad response came."""
        before, began = self._spent(), time.perf_counter()
        seen = await offer(self.kind.url, self.kind.requests, per_second=per_second, seconds=4)
        good = seen.good(self.kind.patience)
        cost = cpu.per_request(before, self._spent(), len(good))
        told = f"well in {_well(seen, began):.2f} s, {_told(seen.reasons)}"
        return Step("after", good, len(good) / 4, cost, told=told)

    def _spent(self) -> dict[str, float]:
        return cpu.spent(self.running.processes())

    async def all(self) -> list[Step]:
        await http_load.load(self.kind.url, self.kind.requests, connections=CROWD, seconds=2)
        peak = await self.crowd(CROWD)
        steps = [peak, await self.crowd(3 * CROWD)]
        steps += [await self.rush(f"{times} x", times * peak.rate) for times in (1, 2, 3)]
        return [*steps, await self.after(peak.rate / 3)]


def show(name: str, steps: list[Step]) -> Table:
    """Returns a table of the steps, compared with their peak."""
    table = Table(
        name,
        "in time",
        "of peak",
        "at equal CPU",
        "p50/p99 ms",
        "429 p50/p99 ms",
        "CPU µs each in time",
        "answers",
    )
    peak = steps[0]
    for step in steps:
        parts = ", ".join(f"{part} {used:.0f}" for part, used in sorted(step.cpu_us.items()) if used >= 50)
        table.add_row(
            step.asked,
            f"{step.rate:.0f}/s",
            f"{step.rate / peak.rate:.2f}",
            f"{peak.cost / step.cost:.2f}",
            _percentiles(step.good),
            _percentiles(step.refused),
            f"{step.cost:.0f}: {parts}",
            step.told,
        )
    return table


def _well(seen: Seen, began: float) -> float:
    """Returns the seconds until the last bad response."""
    return max((at - began for at, status, _ in seen.answers if status >= 300), default=0.0)


def _reason(answer: bytearray) -> str:
    found = _REASON.search(answer)
    return found[1].decode() if found else ""


def _told(answers: Mapping[Any, int]) -> str:
    return ", ".join(f"{answer}: {count}" for answer, count in sorted(answers.items()))


def _percentiles(took: list[float]) -> str:
    ranked = sorted(took)
    return "/".join(f"{ranked[int(len(ranked) * part)] * 1e3:.0f}" for part in (0.5, 0.99)) if ranked else ""


def main(
    seconds: Annotated[float, typer.Option(help="Seconds of each step.")] = 5.0,
    workers: Annotated[int, typer.Option(help="Workers of each service.")] = 1,
    only: Annotated[str, typer.Option(help="`reads` or `orders`; both unless named.")] = "",
) -> None:
    """Measures, and prints the rate of responses in time relative to the peak."""
    os.environ["PROTOMESH_RATE_LIMIT_MULTIPLIER"] = "1000"
    with mesh.running(workers) as running:
        for kind in kinds(running):
            if not only or kind.name == only:
                steps = uvloop.run(Measurement(running, kind, seconds).all())
                Console(width=200).print(show(kind.name, steps))


if __name__ == "__main__":
    typer.run(main)
