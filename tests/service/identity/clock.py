"""Time as tests make it up."""

from datetime import UTC, datetime, timedelta


class Clock:
    """The present, and what is added to it."""

    def __init__(self) -> None:
        self.ahead = timedelta()

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.ahead
