"""What a process tells about itself: logs, metrics and traces."""

from chassis.observe import exporter, logs, tracing
from chassis.observe.otlp import Template
from chassis.observe.spans import Recorder

__all__ = ["Recorder", "Template", "exporter", "logs", "tracing"]
