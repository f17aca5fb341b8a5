"""Settings of the observer."""

from pydantic import Field

from chassis.core import Settings


class ObserverSettings(Settings):
    """The settings of every service, and how much the observer keeps."""

    trace_window_spans: int = Field(
        default=50_000, ge=1, description="Maximum number of spans that the observer keeps."
    )
    trace_window_megabytes: int = Field(
        default=64,
        ge=2,
        description="Maximum megabytes of spans that the observer keeps, in wire format.",
    )
    trace_max_spans: int = Field(
        default=2_000,
        ge=1,
        description="Maximum number of spans that the observer keeps per trace; further spans are only counted.",
    )
