"""Conversion of moments to the form that messages hold."""

from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def timestamp(moment: datetime) -> Timestamp:
    """A moment as a Timestamp, to the microsecond. Raises TypeError for a moment without a time zone."""
    return Timestamp(**timestamp_fields(moment))


def timestamp_fields(moment: datetime) -> dict[str, int]:
    """The fields of a moment's Timestamp, which a message constructor takes in place of one, and faster."""
    # Takes half the time of FromDatetime; a list of twenty rows has forty timestamps.
    since = moment - _EPOCH
    return {"seconds": since.days * 86_400 + since.seconds, "nanos": since.microseconds * 1000}
