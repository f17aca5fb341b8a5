"""The servicer of the official OTLP TraceService: Envoy and every service export to it."""

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from chassis.rpc import Call
from services.observer.store import TraceStore


class OtlpTraceService:
    def __init__(self, store: TraceStore) -> None:
        self._store = store

    async def Export(self, request: ExportTraceServiceRequest, call: Call) -> ExportTraceServiceResponse:
        response = ExportTraceServiceResponse()
        refused = self._store.add(request)
        if refused:
            response.partial_success.rejected_spans = refused
            response.partial_success.error_message = "A span needs a trace id of 16 bytes and a span id of 8."
        return response
