"""Prometheus metrics of a process, and the loopback endpoint that serves them."""

import bisect
import itertools
from collections.abc import Iterator
from typing import Literal

import grpc
from prometheus_client import REGISTRY, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

Side = Literal["server", "client"]

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 15.0)
_BOUNDS = (*map(str, _SECONDS), "+Inf")
_LABELS = ("grpc_service", "grpc_method")


class RpcMetrics:
    """The numbers of one RPC. Only the event loop's thread writes them, so a call needs no lock."""

    __slots__ = ("_buckets", "_failed", "_names", "_seconds", "_succeeded", "in_flight")

    def __init__(self, side: Side, service: str, method: str) -> None:
        self.in_flight = 0
        self._names = (service, method)
        self._buckets = [0] * len(_BOUNDS)
        self._seconds = 0.0
        self._succeeded = 0
        self._failed: dict[grpc.StatusCode, int] = {}
        _collectors[side].rpcs.append(self)

    def observe(self, code: grpc.StatusCode, seconds: float) -> None:
        """Counts a call that ended."""
        self._buckets[bisect.bisect_left(_SECONDS, seconds)] += 1
        self._seconds += seconds
        if code is grpc.StatusCode.OK:
            self._succeeded += 1  # looking up an enum member in a dictionary is slow
        else:
            self._failed[code] = self._failed.get(code, 0) + 1

    def report(
        self, handled: CounterMetricFamily, seconds: HistogramMetricFamily, in_flight: GaugeMetricFamily
    ) -> None:
        """Adds the numbers to a scrape."""
        for code, count in ((grpc.StatusCode.OK, self._succeeded), *self._failed.items()):
            handled.add_metric((*self._names, code.name), count)
        cumulated = itertools.accumulate(self._buckets)
        seconds.add_metric(self._names, list(zip(_BOUNDS, cumulated, strict=True)), self._seconds)
        in_flight.add_metric(self._names, self.in_flight)


class _RpcCollector(Collector):
    """Collects the numbers of all RPCs of one side when they are scraped."""

    def __init__(self, side: Side) -> None:
        self.rpcs: list[RpcMetrics] = []
        self._side = side

    def collect(self) -> Iterator[CounterMetricFamily | HistogramMetricFamily | GaugeMetricFamily]:
        """Returns the metrics of one scrape."""
        name = f"grpc_{self._side}"
        handled = CounterMetricFamily(f"{name}_handled", "Calls that ended.", labels=(*_LABELS, "grpc_code"))
        seconds = HistogramMetricFamily(f"{name}_handling_seconds", "Time to the end.", labels=_LABELS)
        in_flight = GaugeMetricFamily(f"{name}_in_flight", "Calls that are running.", labels=_LABELS)
        for rpc in self.rpcs:
            rpc.report(handled, seconds, in_flight)
        yield from (handled, seconds, in_flight)


_collectors: dict[Side, _RpcCollector] = {
    "server": _RpcCollector("server"),
    "client": _RpcCollector("client"),
}
for _collector in _collectors.values():
    REGISTRY.register(_collector)


def serve(port: int) -> None:
    """Serves `/metrics` on loopback until the process ends. Raises OSError when the port is taken."""
    start_http_server(port, addr="127.0.0.1")
