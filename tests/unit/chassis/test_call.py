"""What handlers and stages do with a call: its end, versions and moments."""

import uuid
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from chassis import contract
from chassis.core import Aborted, timestamp
from chassis.rpc import Call, failure
from tests.unit.chassis.stand import SERVICE, Stand, Thing, method


def call(**metadata: str) -> Call:
    method = contract.method_at(f"/{SERVICE}/Write")
    return Call(method, {name.replace("_", "-"): value for name, value in metadata.items()})


@pytest.mark.parametrize("sent", ["", "*", '"7"', 'W/"7"', "7", '"7.a1b2"', '"6", "7.a1b2"'])
def test_a_change_of_the_version_that_was_read_passes(sent: str) -> None:
    call(if_match=sent).match_etag(7)


@pytest.mark.parametrize("sent", ['"6"', '"77"', "seven", '"6.7"', '"5", "6"'])
def test_a_change_of_another_version_is_refused(sent: str) -> None:
    with pytest.raises(Aborted, match="ETAG_MISMATCH"):
        call(if_match=sent).match_etag(7)


def test_the_request_s_own_etag_counts_before_the_header() -> None:
    call(if_match='"6"').match_etag(7, "7")
    with pytest.raises(Aborted, match="ETAG_MISMATCH"):
        call(if_match='"7"').match_etag(7, "6")


def test_what_was_left_for_the_end_runs_once_the_last_first_and_knows_the_outcome() -> None:
    ran: list[tuple[str, grpc.StatusCode]] = []
    ending = call()
    ending.at_end(lambda ended: ran.append(("outer", ended.code)))
    ending.at_end(lambda ended: ran.append(("inner", ended.code)))
    ending.end(grpc.StatusCode.NOT_FOUND)
    ending.end(grpc.StatusCode.OK)
    assert ran == [("inner", grpc.StatusCode.NOT_FOUND), ("outer", grpc.StatusCode.NOT_FOUND)]


def test_a_call_without_a_key_is_one_operation() -> None:
    one, other = call(), call()
    assert uuid.UUID(one.operation_id).version == 7
    assert one.operation_id == one.operation_id != other.operation_id


async def test_who_calls_is_not_looked_up_after_the_end(stand: Stand) -> None:
    await method(stand.channel(), "Onward")(Thing(text="Read"))
    with pytest.raises(RuntimeError, match="after the call's end"):
        assert stand.scratch.call.caller.workload


def test_what_ends_the_process_is_no_failure_of_the_call() -> None:
    with pytest.raises(SystemExit):
        failure.failure_of(SystemExit(), call())


@pytest.mark.parametrize(
    "moment",
    [
        datetime(2026, 11, 21, 4, 5, 6, 789_012, UTC),
        datetime(1969, 12, 31, 23, 59, 59, 999_999, UTC),
        datetime(2026, 7, 1, tzinfo=timezone(timedelta(hours=2))),
    ],
)
def test_a_moment_is_sent_to_the_microsecond(moment: datetime) -> None:
    expected: Any = Timestamp()
    expected.FromDatetime(moment)
    assert timestamp(moment) == expected
