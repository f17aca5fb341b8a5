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
        self._store.add(request)
        return ExportTraceServiceResponse()
