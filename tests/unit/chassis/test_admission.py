"""Calls and streams have a budget each: neither starves the other."""

import asyncio
from typing import Any

import grpc
import pytest

from chassis.core import errors
from tests.unit.chassis.stand import Thing, method, running


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
        watch.cancel()
