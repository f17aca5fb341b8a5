"""What a process reports about itself: logs, metrics and traces."""

from chassis.observe import exporter, logs, tracing
from chassis.observe.otlp import OtlpExport, Template
from chassis.observe.recorder import Batching, Recorder
from chassis.observe.sdk import ExporterError, SdkExport

__all__ = [
    "Batching",
    "ExporterError",
    "OtlpExport",
    "Recorder",
    "SdkExport",
    "Template",
    "exporter",
    "logs",
    "tracing",
]
