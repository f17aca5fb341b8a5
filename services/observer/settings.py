"""Settings of the observer."""

from pydantic import Field

from chassis.core import Settings


class ObserverSettings(Settings):
    """The house settings, and how much the observer keeps."""

    trace_window_spans: int = Field(default=50_000, ge=1, description="Spans that the observer keeps.")
    trace_window_megabytes: int = Field(
        default=64,
        ge=2,
        description="Megabytes of spans that the observer keeps, as they come over the wire.",
    )
    trace_max_spans: int = Field(
        default=2_000,
        ge=1,
        description="Spans that the observer keeps of one trace; further ones are only counted.",
    )
