"""Telemetry: a server span for each call, and its count and duration."""

import functools
import time
from collections.abc import Awaitable
from typing import Any

import grpc
from opentelemetry import context as context_api
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import SpanKind, Status, StatusCode

from chassis.contract.methods import MethodContract
from chassis.observe import tracing
from chassis.observe.metrics import RpcMetrics
from chassis.observe.otlp import Template
from chassis.rpc.call import Call
from chassis.rpc.stage import Proceed

# The OpenTelemetry API's key for the current span in a context.
(_CURRENT_SPAN,) = trace.set_span_in_context(trace.INVALID_SPAN, Context())

_STATUS_CODE = "rpc.response.status_code"
# The codes for which the server, and not the caller, is at fault.
_SERVER_FAULTS = frozenset(
    (
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DATA_LOSS,
    )
)


def rpc_template(contract: MethodContract, kind: SpanKind) -> Template:
    """Returns the attributes that all spans of an RPC share. The status starts as OK, since most calls end so."""
    attributes = {"rpc.system.name": "grpc", "rpc.method": contract.path[1:], _STATUS_CODE: "OK"}
    return Template(contract.path[1:], kind, attributes)


def fail(failed: trace.Span, code: grpc.StatusCode, *, fault: bool) -> None:
    """Records on an RPC's span how the call failed, and whether that is a fault of the server."""
    failed.set_attribute(_STATUS_CODE, code.name)
    if fault:
        failed.set_status(Status(StatusCode.ERROR, code.name))


@functools.cache
def _metrics_of(service: str, method: str) -> RpcMetrics:
    return RpcMetrics("server", service, method)


class Telemetry:
    """The stage that counts, times and traces a call."""

    def __init__(self, contract: MethodContract) -> None:
        self._template = rpc_template(contract, SpanKind.SERVER)
        self._metrics = _metrics_of(contract.service, contract.name)
        # A contract that is not ours cannot opt out of tracing, but receiving spans must not cause further spans.
        begins = contract.deployable and not contract.untraced
        self._start = tracing.recorder().start if begins else tracing.recorder().join

    def __call__(self, proceed: Proceed, request: Any, call: Call) -> Awaitable[Any]:
        call.span = self._start(self._template, call.metadata.get("traceparent", ""))
        # Never detached: the context ends with the task, and the task with the call.
        context_api.attach(Context({_CURRENT_SPAN: call.span}))
        self._metrics.in_flight += 1
        call.at_end(self._end)
        return proceed(request, call)

    def _end(self, call: Call) -> None:
        self._metrics.in_flight -= 1
        self._metrics.observe(call.code, time.monotonic() - call.arrived)
        if call.code is not grpc.StatusCode.OK:
            fail(call.span, call.code, fault=call.code in _SERVER_FAULTS)
        call.span.end()
