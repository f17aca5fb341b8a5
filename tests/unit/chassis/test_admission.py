"""Calls and streams have a budget each, and a server takes on no more calls than it finishes in time."""

import asyncio
import time
from dataclasses import dataclass
from typing import Any

import grpc
import pytest

from chassis.contract import method_at
from chassis.core import ResourceExhausted, errors
from chassis.rpc import Call
from chassis.rpc.stages import Admission
from chassis.service import Service
from tests.unit.chassis.stand import Scratch, Thing, method, running


async def test_streams_that_stay_open_leave_room_for_calls(certificate_directory: Any) -> None:
    async with running(
        certificate_directory, maximum_concurrent_rpcs=1, maximum_concurrent_streams=1
    ) as stand:
        channel = stand.channel()
        watch = method(channel, "Watch")(Thing(text="hold", count=1))
        assert await watch.read() == Thing()
        await asyncio.wait_for(stand.scratch.started.wait(), 5)
        assert (await method(channel, "Open")(Thing(text="served"))).text == "served"
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await method(channel, "Watch")(Thing(count=1)).read()
        assert errors.reason_of(refused.value) == "OVERLOADED"
        assert dict(refused.value.trailing_metadata() or ())["retry-after"] == "1"
        watch.cancel()


class Scarce(Scratch):
    """Finishes as many calls at a time as it has workshops; the others queue behind them, as at a database."""

    SECONDS, WORKSHOPS = 0.04, 8

    def __init__(self, _: Service) -> None:
        super().__init__()
        self._workshops = asyncio.Semaphore(self.WORKSHOPS)

    async def Slow(self, request: Any, call: Any) -> Any:
        async with self._workshops:
            await asyncio.sleep(self.SECONDS)
        return request


async def test_under_three_times_what_it_can_do_a_server_finishes_what_it_takes_on(
    certificate_directory: Any,
) -> None:
    """Unlimited intake would have every call queue until its deadline, and none of them finish."""
    async with running(certificate_directory, servicer=Scarce) as stand:
        call = method(stand.channel(), "Slow")
        capacity = Scarce.WORKSHOPS / Scarce.SECONDS
        outcomes = await offered(call, per_second=3 * capacity, seconds=3)
        late = [answer for answer in outcomes if answer.reason == "DEADLINE_EXCEEDED"]
        refused = [answer for answer in outcomes if answer.reason == "OVERLOADED"]
        done = [answer for answer in outcomes if not answer.reason]
        assert len(done) + len(late) + len(refused) == len(outcomes)
        assert len(late) < len(done)
        assert refused
        # Who is refused knows it sooner than who is served, and can ask somewhere else.
        assert median(refused) < median(done)
        # And when the rush is over, it is over.
        after = await offered(call, per_second=capacity / 4, seconds=1)
        assert "OVERLOADED" not in {answer.reason for answer in after}


async def test_an_rpc_whose_calls_come_late_leaves_the_others_their_room(certificate_directory: Any) -> None:
    async with running(certificate_directory, servicer=Scarce) as stand:
        channel = stand.channel()
        rush = asyncio.ensure_future(offered(method(channel, "Slow"), per_second=800, seconds=2))
        for _ in range(50):
            assert (await method(channel, "Open")(Thing(text="quick"))).text == "quick"
        await rush


def median(outcomes: "list[Outcome]") -> float:
    """Seconds until half of these were told."""
    return sorted(outcome.seconds for outcome in outcomes)[len(outcomes) // 2]


@dataclass(frozen=True)
class Outcome:
    """How a call ended: its reason ("" for an answer), and after how long."""

    reason: str
    seconds: float


async def test_a_caller_with_little_patience_says_nothing_about_the_server(
    certificate_directory: Any,
) -> None:
    """Else whoever calls with a deadline of 50 ms could cut an RPC back for everybody."""
    async with running(certificate_directory, servicer=Scarce) as stand:
        call = method(stand.channel(), "Slow")
        with pytest.raises(grpc.aio.AioRpcError) as late:
            await call(Thing(), timeout=0.02)
        assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        outcomes = await asyncio.gather(*(call(Thing()) for _ in range(40)), return_exceptions=True)
        assert [outcome for outcome in outcomes if isinstance(outcome, BaseException)] == []


class Delayed(Scratch):
    """Delays a call as a busy machine does; the others end together, once there are as many as `TOGETHER`."""

    SECONDS, TOGETHER = 0.1, 20

    def __init__(self, _: Service) -> None:
        super().__init__()
        self._together = asyncio.Barrier(self.TOGETHER)

    async def Slow(self, request: Any, call: Any) -> Any:
        await (asyncio.sleep(self.SECONDS) if request.text == "delayed" else self._together.wait())
        return request


async def test_a_delay_of_a_tenth_of_a_second_is_not_late_however_short_the_contracts_timeout(
    certificate_directory: Any,
) -> None:
    """A quarter of 300 ms is 75 ms, and an RPC with one call at a time would be left with the least limit."""
    async with running(certificate_directory, servicer=Delayed) as stand:
        call = method(stand.channel(), "Slow")
        await call(Thing(text="delayed"))
        await asyncio.gather(*(call(Thing()) for _ in range(Delayed.TOGETHER)))


async def test_a_call_of_more_than_a_second_is_late_however_long_its_contract_lets_it_take() -> None:
    """Placing an order may take ten seconds, and a quarter of that was a line that nobody wants to stand in."""
    contract = method_at("/protomesh.ordering.v1.OrderService/PlaceOrder")
    assert contract.timeout * 0.25 > 2
    stage = Admission(calls=100, streams=1).stage(contract)

    async def place(_request: Any, _call: Call) -> None:
        """Ends when the test says so."""

    calls = [Call(contract, {}) for _ in range(20)]
    for call in calls:
        await stage(place, None, call)
    calls[0].arrived -= 1.5
    calls[0].end(grpc.StatusCode.OK)
    with pytest.raises(ResourceExhausted, match="OVERLOADED"):
        stage(place, None, Call(contract, {}))


async def offered(call: Any, *, per_second: float, seconds: float) -> list[Outcome]:
    """Calls at a rate, whatever becomes of those before, as many independent clients do."""

    async def one() -> Outcome:
        began = time.monotonic()
        try:
            await call(Thing())
        except grpc.aio.AioRpcError as error:
            return Outcome(errors.reason_of(error) or error.code().name, time.monotonic() - began)
        return Outcome("", time.monotonic() - began)

    calls = []
    for _ in range(round(per_second * seconds)):
        calls.append(asyncio.ensure_future(one()))
        await asyncio.sleep(1 / per_second)
    return await asyncio.gather(*calls)
