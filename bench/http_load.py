"""A closed-loop HTTP/1.1 load generator that uses little CPU itself.

Each connection sends its next request when the answer to the last one is complete. Both sides of a comparison are
loaded by this same code, so its own cost (about 40 µs a request) is in both figures.
"""

import asyncio
import itertools
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import cast
from urllib.parse import urlsplit


@dataclass(slots=True)
class LoadResult:
    """The results of a run: responses by HTTP status, and the latency in seconds of each success."""

    seconds: float = 0.0
    statuses: dict[int, int] = field(default_factory=dict)
    latencies: list[float] = field(default_factory=list)

    @property
    def errors(self) -> int:
        """The number of responses that are not a success."""
        return sum(count for status, count in self.statuses.items() if not 200 <= status < 300)

    @property
    def requests_per_second(self) -> float:
        return len(self.latencies) / self.seconds

    def percentile_ms(self, percent: float) -> float:
        ranked = sorted(self.latencies) or [float("nan")]
        return ranked[min(len(ranked) - 1, int(len(ranked) * percent / 100))] * 1e3


def request_bytes(
    method: str, url: str, *, headers: dict[str, str] | None = None, body: bytes = b""
) -> bytes:
    """Returns one request as bytes on the wire."""
    parts = urlsplit(url)
    path = parts.path + (f"?{parts.query}" if parts.query else "")
    lines = [f"{method} {path} HTTP/1.1", f"host: {parts.netloc}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    if body:
        lines += ["content-type: application/json", f"content-length: {len(body)}"]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


async def load(
    url: str, requests: Callable[[], bytes], *, connections: int, seconds: float, limit: int | None = None
) -> LoadResult:
    """Sends the requests that `requests` yields to the server of `url`, until the time or number is reached.

    On Linux each connection comes from a different address, so that limits per address do not distort the figures.
    """
    parts = urlsplit(url)
    loop = asyncio.get_running_loop()
    result = LoadResult()
    began = time.perf_counter()
    tickets = iter(range(limit)) if limit is not None else itertools.count()
    clients = [_Client(requests, result, began + seconds, tickets) for _ in range(connections)]
    for number, client in enumerate(clients, start=1):
        address = (f"127.0.1.{number}", 0) if sys.platform == "linux" else None
        await loop.create_connection(
            partial(_itself, client), parts.hostname or "127.0.0.1", parts.port or 80, local_addr=address
        )
    await asyncio.gather(*(client.done for client in clients))
    result.seconds = time.perf_counter() - began
    return result


def _itself(client: "_Client") -> "_Client":
    return client


class _Client(asyncio.Protocol):
    def __init__(
        self, requests: Callable[[], bytes], result: LoadResult, until: float, tickets: Iterator[int]
    ) -> None:
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._requests = requests
        self._result = result
        self._until = until
        self._tickets = tickets
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None
        self._sent = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are not instances of asyncio's classes.
        self._transport = cast(asyncio.Transport, transport)
        self._send()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        status = complete(self._buffer)
        if status is None:
            return
        if 200 <= status < 300:  # a refusal is quick, and does no work
            self._result.latencies.append(time.perf_counter() - self._sent)
        self._result.statuses[status] = self._result.statuses.get(status, 0) + 1
        self._buffer.clear()
        self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(exc or ConnectionError("the server closed the connection"))

    def _send(self) -> None:
        assert self._transport is not None
        if time.perf_counter() >= self._until or next(self._tickets, None) is None:
            self.done.set_result(None)
            self._transport.close()
            return
        self._sent = time.perf_counter()
        self._transport.write(self._requests())


def complete(buffer: bytearray) -> int | None:
    """Returns the status of the response in the buffer; None while it is incomplete."""
    end = buffer.find(b"\r\n\r\n")
    if end < 0:
        return None
    head = bytes(buffer[:end]).lower()
    status = int(head[9:12])
    if b"transfer-encoding: chunked" in head:
        return status if buffer.endswith(b"0\r\n\r\n") else None
    mark = head.find(b"content-length:")
    length = int(head[mark + 15 :].split(b"\r\n", 1)[0]) if mark >= 0 else 0
    return status if len(buffer) >= end + 4 + length else None
