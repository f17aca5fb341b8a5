"""Starts the observer."""

from protomesh.options.v1 import options_pb2

from chassis.service import Service, run
from services.observer.observer_service import ObserverService
from services.observer.otlp_service import OtlpTraceService
from services.observer.settings import ObserverSettings
from services.observer.store import TraceStore

# OTLP's contract is a third party's and declares no access: every workload of the mesh may send its spans.
EVERY_WORKLOAD = options_pb2.Access(internal=options_pb2.Internal(callers=["*"]))


async def compose(service: Service) -> None:
    settings = service.settings
    assert isinstance(settings, ObserverSettings)
    store = TraceStore(
        max_spans=settings.trace_window_spans,
        max_spans_per_trace=settings.trace_max_spans,
        max_bytes=settings.trace_window_megabytes << 20,
    )
    service.serve("protomesh.observer.v1.ObserverService", ObserverService(store, settings.cursor_secret))
    service.serve(
        "opentelemetry.proto.collector.trace.v1.TraceService", OtlpTraceService(store), access=EVERY_WORKLOAD
    )


if __name__ == "__main__":
    run("observer", compose, settings=ObserverSettings)
