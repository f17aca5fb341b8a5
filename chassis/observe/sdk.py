"""What the OpenTelemetry SDK reads from its `OTEL_…` variables: resource, sampler, limits, further exporters."""

import os
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import entry_points

from opentelemetry.environment_variables import OTEL_TRACES_EXPORTER
from opentelemetry.sdk import environment_variables as names
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter
from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio, Sampler

from chassis.observe.recorder import Batching
from chassis.observe.spans import Span

_ENDPOINTS = (names.OTEL_EXPORTER_OTLP_TRACES_ENDPOINT, names.OTEL_EXPORTER_OTLP_ENDPOINT)
_PROTOCOLS = (names.OTEL_EXPORTER_OTLP_TRACES_PROTOCOL, names.OTEL_EXPORTER_OTLP_PROTOCOL)


class ExporterError(Exception):
    """An exporter that the environment asks for cannot be set up; the text is one sentence that says which."""


class SdkExport:
    """Passes spans to an exporter with the interface of the SDK."""

    def __init__(self, exporter: SpanExporter, resource: Resource) -> None:
        self._exporter = exporter
        self._resource = resource
        self._limits = SpanLimits()

    def __call__(self, spans: Sequence[Span]) -> None:
        """Sends spans that have ended."""
        self._exporter.export([span.readable(self._resource, self._limits) for span in spans])


def disabled() -> bool:
    """Whether the operator turned traces off."""
    return os.environ.get(names.OTEL_SDK_DISABLED, "").lower() == "true"


def resource(own: Mapping[str, str]) -> Resource:
    """The process's resource: its own attributes, overridden by OTEL_RESOURCE_ATTRIBUTES and OTEL_SERVICE_NAME."""
    return Resource.create(dict(own)).merge(OTELResourceDetector().detect())


def sampler(ratio: float) -> Sampler:
    """The sampler of OTEL_TRACES_SAMPLER; if unset, one that samples by ratio and follows the parent's decision."""
    if names.OTEL_TRACES_SAMPLER in os.environ:
        return TracerProvider(shutdown_on_exit=False).sampler
    return ParentBasedTraceIdRatio(ratio)


def batching() -> Batching:
    """The batching that the `OTEL_BSP_…` variables set; the defaults for those that are unset."""
    usual = Batching()
    return Batching(
        batch=_number(names.OTEL_BSP_MAX_EXPORT_BATCH_SIZE, usual.batch),
        queue=_number(names.OTEL_BSP_MAX_QUEUE_SIZE, usual.queue),
        pause=_number(names.OTEL_BSP_SCHEDULE_DELAY, round(usual.pause * 1000)) / 1000,
    )


def exporters() -> Iterator[SpanExporter]:
    """The exporters of OTEL_TRACES_EXPORTER; OTLP when only its endpoint is set. They read their own variables."""
    default = "otlp" if any(os.environ.get(name) for name in _ENDPOINTS) else "none"
    for name in os.environ.get(OTEL_TRACES_EXPORTER, default).split(","):
        if name.strip() not in {"", "none"}:
            yield _exporter(name.strip())


def _exporter(name: str) -> SpanExporter:
    protocol = next((os.environ[variable] for variable in _PROTOCOLS if variable in os.environ), "grpc")
    entry = f"otlp_proto_{protocol.partition('/')[0]}" if name == "otlp" else name
    for found in entry_points(group="opentelemetry_traces_exporter", name=entry):
        exporter: SpanExporter = found.load()()
        return exporter
    raise ExporterError(f"OTEL_TRACES_EXPORTER asks for {name!r} ({entry}), which is not installed.")


def _number(name: str, usual: int) -> int:
    try:
        return int(os.environ.get(name) or usual)
    except ValueError:
        raise ExporterError(f"{name} is not a whole number.") from None
