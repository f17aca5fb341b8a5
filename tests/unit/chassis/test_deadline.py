"""Deadlines: a call that is late is told so in full, and one that its caller gave up is not late."""

import asyncio
from contextlib import suppress
from typing import Any

import grpc
import pytest

from chassis import contract
from chassis.core import reason_of
from chassis.rpc import Call, failure
from chassis.rpc.stages import Deadline
from tests.patience import eventually
from tests.unit.chassis.stand import SERVICE, Stand, Thing, method


class Context:
    """What the stage asks of gRPC."""

    def __init__(self, seconds: float | None) -> None:
        self._seconds = seconds

    def time_remaining(self) -> float | None:
        return self._seconds


def call(seconds: float | None) -> Call:
    return Call(contract.method_at(f"/{SERVICE}/Open"), {}, Context(seconds))


async def test_who_gives_less_time_than_the_contract_is_told_in_full_before_the_time_is_up(
    stand: Stand,
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as late:
        await method(stand.plain(), "Slow")(Thing(), timeout=0.25)
    assert (late.value.code(), reason_of(late.value)) == (
        grpc.StatusCode.DEADLINE_EXCEEDED,
        "DEADLINE_EXCEEDED",
    )


@pytest.mark.parametrize(
    ("asked", "given"), [(None, 2.0), (100.0, 2.0), (2.0, 1.85), (1.0, 0.9), (0.1, 0.09)]
)
async def test_a_call_ends_a_little_before_its_caller_stops_waiting(
    asked: float | None, given: float
) -> None:
    limited = call(asked)
    await Deadline(limited.method)(_nothing, None, limited)
    assert limited.deadline - limited.arrived == pytest.approx(given)


async def test_a_late_call_that_its_caller_gives_up_at_the_same_moment_is_cancelled() -> None:
    limited = call(10.0)
    waiting = asyncio.Event()

    async def wait(request: Any, call: Call) -> None:
        waiting.set()
        await asyncio.Event().wait()

    async def answered() -> Any:
        try:
            await Deadline(limited.method)(wait, None, limited)
        except asyncio.CancelledError as error:
            return failure.failure_of(error, limited)

    task = asyncio.ensure_future(answered())
    await waiting.wait()
    limit: Any = limited.limit
    limit.fire()
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    limit.lift(limited)


async def test_each_of_many_calls_ends_at_its_own_time() -> None:
    stage = Deadline(contract.method_at(f"/{SERVICE}/Open"))
    ended: list[float] = []

    async def wait(seconds: float) -> None:
        limited = call(seconds)
        with suppress(asyncio.CancelledError):
            await stage(_forever, None, limited)
        assert limited.limit is not None
        assert limited.limit.expired()
        assert limited.remaining() < 0.002
        ended.append(seconds)

    await asyncio.gather(*map(wait, (0.09, 0.03, 0.06, 0.06, 0.03)))
    assert ended == [0.03, 0.03, 0.06, 0.06, 0.09]


async def test_a_call_that_ended_in_time_leaves_nothing_behind() -> None:
    stage: Any = Deadline(contract.method_at(f"/{SERVICE}/Open"))
    limited = call(0.05)
    await stage(_nothing, None, limited)
    limited.end(grpc.StatusCode.OK)
    assert not any(stage._ticks._due.values())
    await eventually(lambda: not stage._ticks._due, within=5)


async def _forever(request: Any, call: Call) -> None:
    await asyncio.Event().wait()


async def _nothing(request: Any, call: Call) -> None:
    call.end(grpc.StatusCode.OK)
