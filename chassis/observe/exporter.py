"""Export of a process's spans to a collector, in batches, over mTLS."""

from typing import Any, Protocol

import grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from chassis.core.settings import Settings
from chassis.observe import sdk
from chassis.observe.otlp import OtlpExport
from chassis.observe.recorder import Export, Recorder
from chassis.observe.tracing import install

_EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
_EXPORT_SECONDS = 5.0


class Credentials(Protocol):
    """The certificates of this workload, which may be renewed while it runs."""

    def generation(self) -> int:
        """A number that increases each time the certificates are renewed."""

    def channel_credentials(self) -> grpc.ChannelCredentials:
        """Credentials for a channel that is opened now."""


class Exporter:
    """Sends batches of spans over mTLS, from the recorder's thread. Raises RpcError when a batch is lost."""

    def __init__(self, endpoint: str, server_name: str, certificates: Credentials | None) -> None:
        self._endpoint = endpoint
        self._server_name = server_name
        self._certificates = certificates if server_name else None
        self._generation = 0
        self._channel: grpc.Channel | None = None

    def __call__(self, request: ExportTraceServiceRequest) -> None:
        """Sends a batch and waits until it is received."""
        send: grpc.UnaryUnaryMultiCallable[Any, Any] = self._connected().unary_unary(
            _EXPORT,
            request_serializer=ExportTraceServiceRequest.SerializeToString,
            response_deserializer=ExportTraceServiceResponse.FromString,
        )
        send(request, timeout=_EXPORT_SECONDS)

    def _connected(self) -> grpc.Channel:
        generation = self._certificates.generation() if self._certificates else 0
        if self._channel is not None and generation != self._generation:
            self._channel.close()
            self._channel = None
        self._generation = generation
        if self._channel is None:
            self._channel = self._open()
        return self._channel

    def _open(self) -> grpc.Channel:
        if self._certificates is None:
            return grpc.insecure_channel(self._endpoint)
        credentials = self._certificates.channel_credentials()
        options = (("grpc.ssl_target_name_override", self._server_name),)
        return grpc.secure_channel(self._endpoint, credentials, options)


def set_up(settings: Settings, certificates: Credentials | None) -> Recorder:
    """Starts recording traces, once per process; exports them when settings or `OTEL_…` variables name a target.

    Raises ExporterError when these variables ask for an exporter that is not installed.
    """
    if sdk.disabled():
        return install(Recorder())
    instance = settings.instance or f"{settings.host}:{settings.port}"
    resource = sdk.resource({"service.name": settings.service, "service.instance.id": instance})
    exports: list[Export] = [sdk.SdkExport(exporter, resource) for exporter in sdk.exporters()]
    if settings.otlp_endpoint:
        send = Exporter(settings.otlp_endpoint, settings.otlp_server_name, certificates)
        exports.append(OtlpExport(send, resource.attributes))
    sampler = sdk.sampler(settings.trace_sample_ratio)
    return install(Recorder(*exports, sampler=sampler, batching=sdk.batching()))
