"""Moments, as messages hold them."""

from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def timestamp(moment: datetime) -> Timestamp:
    """A moment, to the microsecond. TypeError for one without a zone."""
    return Timestamp(**timestamp_fields(moment))


def timestamp_fields(moment: datetime) -> dict[str, int]:
    """The fields of a moment's Timestamp, which a message's constructor takes in its place, and faster."""
    # Half the time that FromDatetime takes; a list of twenty has forty of them.
    since = moment - _EPOCH
    return {"seconds": since.days * 86_400 + since.seconds, "nanos": since.microseconds * 1000}
