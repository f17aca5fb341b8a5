"""Starts spans that the sampler selects, and exports them in batches from a separate thread."""

import collections
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace.sampling import (
    DEFAULT_ON,
    Decision,
    ParentBased,
    ParentBasedTraceIdRatio,
    Sampler,
)
from opentelemetry.trace import Link, NonRecordingSpan, SpanKind
from opentelemetry.util._decorator import _agnosticcontextmanager
from opentelemetry.util.types import Attributes

from chassis.observe.otlp import Template
from chassis.observe.spans import (
    SAMPLED,
    TRACEPARENT,
    UNSAMPLED,
    Span,
    new_span_id,
    new_trace_id,
    parse,
    span_context,
)

logger = logging.getLogger(__name__)

# Sends spans that have ended. If it raises, only these spans are lost.
Export = Callable[[Sequence[Span]], None]


@dataclass(frozen=True, slots=True)
class Batching:
    """Spans in a batch, maximum number of waiting spans, and seconds between two exports."""

    # A span is at most 2 to 3 kB, so a batch stays well below the 1 MiB that receivers accept.
    batch: int = 256
    queue: int = 16_384
    pause: float = 1.0


class Recorder(trace.TracerProvider, trace.Tracer):
    """The implementation behind the OpenTelemetry API. Spans that end faster than they can be sent are dropped."""

    def __init__(
        self, *exports: Export, sampler: Sampler = DEFAULT_ON, batching: Batching | None = None
    ) -> None:
        self._exports = exports
        self._sampler = sampler
        # Such a sampler follows the parent's decision and is asked only about roots.
        self._follows = type(sampler) in {ParentBased, ParentBasedTraceIdRatio}
        self._batching = batching or Batching()
        self._queue: collections.deque[Span] = collections.deque(maxlen=self._batching.queue)
        # Queues an ended span, and drops the oldest when the queue is full.
        self._take = self._queue.append
        self._wake = threading.Event()
        self._exporting = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="spans", daemon=True)
        if exports:
            self._thread.start()

    def get_tracer(self, *_: object, **__: object) -> trace.Tracer:
        """Returns the recorder itself: the span's name says which module recorded it."""
        return self

    def start(self, template: Template, traceparent: str = "") -> trace.Span:
        """Starts a span whose parent, if any, is in another process."""
        if (
            self._follows
            and len(traceparent) == TRACEPARENT
            and traceparent.endswith("-01")
            and self._exports
        ):
            return Span(self._take, template, traceparent)
        return self._decided(template, *parse(traceparent))

    def join(self, template: Template, traceparent: str = "") -> trace.Span:
        """Starts a span below a parent in another process; without a parent, the span is not recorded."""
        trace_id, parent_id, sampled = parse(traceparent)
        if not trace_id:
            return self._span(template, new_trace_id(), parent_id, sampled=False)
        return self._decided(template, trace_id, parent_id, sampled)

    def start_child(self, template: Template, parent: trace.Span | None = None) -> trace.Span:
        """Starts a span below `parent`, which defaults to the current span; without one, at the root of a new trace."""
        parent = parent or trace.get_current_span()
        if type(parent) is Span and self._follows:
            return Span(self._take, template, parent)
        context = parent.get_span_context()
        if not context.is_valid:
            return self.start(template)
        ids = context.trace_id.to_bytes(16, "big"), context.span_id.to_bytes(8, "big")
        return self._decided(template, *ids, context.trace_flags.sampled)

    def _decided(self, template: Template, trace_id: bytes, parent_id: bytes, sampled: bool) -> trace.Span:
        if self._follows and parent_id:
            return self._span(template, trace_id, parent_id, sampled=sampled)
        trace_id = trace_id or new_trace_id()
        wanted = self._exports and self._wants(template, trace_id, parent_id, sampled)
        return self._span(template, trace_id, parent_id, sampled=bool(wanted))

    def _wants(self, template: Template, trace_id: bytes, parent_id: bytes, sampled: bool) -> bool:
        context = Context()
        if parent_id:
            flags = SAMPLED if sampled else UNSAMPLED
            parent = NonRecordingSpan(span_context(trace_id, parent_id, flags, remote=True))
            context = trace.set_span_in_context(parent, context)
        number = int.from_bytes(trace_id, "big")
        result = self._sampler.should_sample(
            context, number, template.name, template.kind, template.attributes
        )
        return result.decision is Decision.RECORD_AND_SAMPLE

    def _span(self, template: Template, trace_id: bytes, parent_id: bytes, *, sampled: bool) -> trace.Span:
        if sampled and self._exports:
            return Span(self._take, template, (trace_id, parent_id))
        # It still names the trace, for logs and for the next call.
        flags = SAMPLED if sampled else UNSAMPLED
        return NonRecordingSpan(span_context(trace_id, new_span_id(), flags))

    def start_span(
        self,
        name: str,
        context: Context | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        start_time: int | None = None,
        record_exception: bool = True,
        set_status_on_exception: bool = True,
    ) -> trace.Span:
        """The OpenTelemetry API's way to start a span."""
        span = self.start_child(Template(name, kind, attributes), trace.get_current_span(context))
        if isinstance(span, Span):
            span._links = links or ()  # noqa: SLF001
            span._start = start_time or span._start  # noqa: SLF001
        return span

    @_agnosticcontextmanager
    def start_as_current_span(
        self,
        name: str,
        context: Context | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        start_time: int | None = None,
        record_exception: bool = True,
        set_status_on_exception: bool = True,
        end_on_exit: bool = True,
    ) -> Iterator[trace.Span]:
        """The OpenTelemetry API's way to start a span and make it the current one."""
        span = self.start_span(name, context, kind, attributes, links, start_time)
        with trace.use_span(span, end_on_exit, record_exception, set_status_on_exception):
            yield span

    def flush(self) -> None:
        """Exports all queued spans."""
        with self._exporting:
            while self._queue:
                waiting = min(len(self._queue), self._batching.batch)
                self._send([self._queue.popleft() for _ in range(waiting)])

    def _send(self, spans: Sequence[Span]) -> None:
        for export in self._exports:
            try:
                export(spans)
            except Exception as error:  # noqa: BLE001 (whatever it is, a lost span must not stop the process)
                logger.debug("%d spans were lost: %s", len(spans), error)

    def shutdown(self) -> None:
        """Exports the rest and stops."""
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(10)

    def _run(self) -> None:
        while not self._wake.wait(self._batching.pause):
            self.flush()
        self.flush()
