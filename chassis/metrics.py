"""Prometheus metrics of a process, and the loopback endpoint that serves them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc
from prometheus_client import Counter, Gauge, Histogram, start_http_server

if TYPE_CHECKING:
    import threading
    from wsgiref.simple_server import WSGIServer

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 15.0)
_METHOD = ("grpc_service", "grpc_method")

SERVER_HANDLED = Counter("grpc_server_handled", "Calls that were answered.", (*_METHOD, "grpc_code"))
SERVER_SECONDS = Histogram("grpc_server_handling_seconds", "Time to answer.", _METHOD, buckets=_SECONDS)
SERVER_IN_FLIGHT = Gauge("grpc_server_in_flight", "Calls that are being answered.", _METHOD)
CLIENT_HANDLED = Counter("grpc_client_handled", "Calls that this process made.", (*_METHOD, "grpc_code"))
CLIENT_SECONDS = Histogram("grpc_client_handling_seconds", "Time to the answer.", _METHOD, buckets=_SECONDS)


class ServerMetrics:
    """The metrics of one RPC, bound once so that a call only adds numbers."""

    __slots__ = ("_codes", "_method", "_seconds", "in_flight")

    def __init__(self, service: str, method: str) -> None:
        self._method = (service, method)
        self._seconds = SERVER_SECONDS.labels(service, method)
        self._codes: dict[grpc.StatusCode, Counter] = {}
        self.in_flight = SERVER_IN_FLIGHT.labels(service, method)

    def finish(self, code: grpc.StatusCode, seconds: float) -> None:
        """Counts an answered call."""
        self.in_flight.dec()
        self._seconds.observe(seconds)
        counter = self._codes.get(code)
        if counter is None:
            counter = self._codes[code] = SERVER_HANDLED.labels(*self._method, code.name)
        counter.inc()


class ClientMetrics:
    """The metrics of one RPC that this process calls."""

    __slots__ = ("_codes", "_method", "_seconds")

    def __init__(self, service: str, method: str) -> None:
        self._method = (service, method)
        self._seconds = CLIENT_SECONDS.labels(service, method)
        self._codes: dict[grpc.StatusCode, Counter] = {}

    def finish(self, code: grpc.StatusCode, seconds: float) -> None:
        """Counts a call that came back."""
        self._seconds.observe(seconds)
        counter = self._codes.get(code)
        if counter is None:
            counter = self._codes[code] = CLIENT_HANDLED.labels(*self._method, code.name)
        counter.inc()


def serve(port: int) -> tuple[WSGIServer, threading.Thread]:
    """Serves `/metrics` on loopback from a thread of its own. OSError when the port is taken."""
    return start_http_server(port, addr="127.0.0.1")
