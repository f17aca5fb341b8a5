"""Traces: spans of one trace from the edge to the last consumer, recorded behind the OpenTelemetry API."""

from collections.abc import Mapping, Sequence
from typing import Any

from opentelemetry import context as context_api
from opentelemetry import propagate, trace
from opentelemetry.trace import Link, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from chassis.observe.otlp import Template
from chassis.observe.recorder import Recorder

# The header of a trace context, of version 00 (W3C).
_TRACEPARENT = "traceparent"

_recorder = Recorder()


def install(recorder: Recorder) -> Recorder:
    """Makes a recorder the one that this process uses, also behind the OpenTelemetry API."""
    global _recorder  # noqa: PLW0603 (the API keeps one provider per process as well)
    _recorder = recorder
    propagate.set_global_textmap(TraceContextTextMapPropagator())
    trace.set_tracer_provider(recorder)
    return recorder


def recorder() -> Recorder:
    """The process's recorder."""
    return _recorder


class using:  # noqa: N801 (called like a function)
    """Makes a span the current one, and ends it: `with tracing.using(span):`. An exception marks the span as failed."""

    __slots__ = ("_span", "_token")

    def __init__(self, span: trace.Span) -> None:
        self._span = span

    def __enter__(self) -> trace.Span:
        self._token = context_api.attach(trace.set_span_in_context(self._span))
        return self._span

    def __exit__(self, _type: object, error: BaseException | None, _traceback: object) -> None:
        context_api.detach(self._token)
        if error is not None:
            fail(self._span, error)
        self._span.end()


def span(
    name: str,
    kind: SpanKind = SpanKind.INTERNAL,
    attributes: Mapping[str, Any] | None = None,
    *,
    links: Sequence[Link] = (),
) -> using:
    """Records a piece of work below the current span: `with tracing.span("…") as span:`."""
    return using(_recorder.start_span(name, None, kind, attributes, links))


def start(template: Template, headers: Mapping[str, str]) -> trace.Span:
    """Starts a span in the trace that the headers of a request or of an event name, or else in a new one."""
    return _recorder.start(template, headers.get(_TRACEPARENT, ""))


def fail(failed: trace.Span, error: BaseException) -> None:
    """Marks a span as failed. It holds only the class of the error, since its text may hold sensitive data."""
    failed.set_status(Status(StatusCode.ERROR, type(error).__name__))


def trace_headers(of: trace.Span | None = None) -> dict[str, str]:
    """The trace context of a span, by default the current one, as `traceparent`; empty outside a trace."""
    context = (of or trace.get_current_span()).get_span_context()
    if not context.is_valid:
        return {}
    return {_TRACEPARENT: f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"}


def trace_id() -> str:
    """The id of the current trace in 32 hex digits; "" outside a trace."""
    context = trace.get_current_span().get_span_context()
    return f"{context.trace_id:032x}" if context.is_valid else ""
