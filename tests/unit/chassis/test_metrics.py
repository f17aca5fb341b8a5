"""What a scrape tells of the calls of an RPC, on both of its sides."""

import asyncio
from collections.abc import Sequence

import grpc
import pytest
from prometheus_client import REGISTRY

from chassis.core import errors
from tests.unit.chassis.stand import SERVICE, Stand, Thing, method

SIDES = ("client", "server")


def told(name: str, rpc: str, **labels: str) -> Sequence[float]:
    """The values of a metric, at the client and at the server."""
    labels |= {"grpc_service": SERVICE, "grpc_method": rpc}
    return [REGISTRY.get_sample_value(f"grpc_{side}_{name}", labels) or 0.0 for side in SIDES]


async def test_calls_are_counted_by_their_outcome_and_timed(stand: Stand) -> None:
    fail = method(stand.channel(), "Fail")
    names = [("handled_total", {"grpc_code": "NOT_FOUND"}), ("handling_seconds_count", {})]
    names.append(("handling_seconds_bucket", {"le": "+Inf"}))
    before = [told(name, "Fail", **labels) for name, labels in names]
    seconds = told("handling_seconds_sum", "Fail")
    stand.scratch.error = errors.NotFound("GONE", "It is gone.")
    for _ in range(2):
        with pytest.raises(grpc.aio.AioRpcError):
            await fail(Thing())
    after = [told(name, "Fail", **labels) for name, labels in names]
    assert after == [[value + 2 for value in values] for values in before]
    assert all(
        0 < now - then < 10 for now, then in zip(told("handling_seconds_sum", "Fail"), seconds, strict=True)
    )


async def test_a_call_is_in_flight_until_it_ends(stand: Stand) -> None:
    call = method(stand.channel(), "Slow")
    running = asyncio.ensure_future(_outcome(call(Thing())))
    await asyncio.wait_for(stand.scratch.started.wait(), 5)
    assert told("in_flight", "Slow") == [1, 1]
    assert await running is grpc.StatusCode.DEADLINE_EXCEEDED
    assert told("in_flight", "Slow") == [0, 0]


async def _outcome(call: grpc.aio.UnaryUnaryCall[object, object]) -> grpc.StatusCode:
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK
