"""Moments, as messages hold them."""

from datetime import datetime

from google.protobuf.timestamp_pb2 import Timestamp


def timestamp(moment: datetime) -> Timestamp:
    """A moment to the microsecond; one without a zone is taken as UTC."""
    message = Timestamp()
    message.FromDatetime(moment)
    return message
