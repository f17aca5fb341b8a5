"""Traces: spans of one trace from the edge to the last consumer, recorded behind the OpenTelemetry API."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from opentelemetry import context as context_api
from opentelemetry import propagate, trace
from opentelemetry.trace import Link, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from chassis.observe.recorder import Recorder

_propagator = TraceContextTextMapPropagator()
_recorder = Recorder()


def install(recorder: Recorder) -> Recorder:
    """Makes a recorder the one that this process uses, also behind the OpenTelemetry API."""
    global _recorder  # noqa: PLW0603 (the API keeps one provider per process as well)
    _recorder = recorder
    propagate.set_global_textmap(_propagator)
    trace.set_tracer_provider(recorder)
    return recorder


def recorder() -> Recorder:
    """The process's recorder."""
    return _recorder


@contextmanager
def span(
    name: str,
    kind: SpanKind = SpanKind.INTERNAL,
    attributes: Mapping[str, Any] | None = None,
    *,
    parent: Mapping[str, str] | None = None,
    links: Sequence[Link] = (),
) -> Iterator[trace.Span]:
    """Records a piece of work as the current span; `parent` holds a `traceparent` from another process.

    An exception marks the span as failed and is recorded only by its class, since its text may hold sensitive data.
    """
    context = _propagator.extract(parent) if parent else None
    started = _recorder.start_span(name, context, kind, attributes, links)
    token = context_api.attach(trace.set_span_in_context(started, context))
    try:
        yield started
    except BaseException as error:
        started.set_status(Status(StatusCode.ERROR, type(error).__name__))
        raise
    finally:
        context_api.detach(token)
        started.end()


def trace_headers() -> dict[str, str]:
    """The trace context of the current span as `traceparent`; empty outside a trace."""
    carrier: dict[str, str] = {}
    _propagator.inject(carrier)
    return carrier


def trace_id() -> str:
    """The id of the current trace in 32 hex digits; "" outside a trace."""
    context = trace.get_current_span().get_span_context()
    return f"{context.trace_id:032x}" if context.is_valid else ""
