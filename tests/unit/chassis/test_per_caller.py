"""What one caller has open leaves room for the others."""

from typing import Any

import grpc
import pytest

from chassis.core import errors
from tests.unit.chassis.stand import Stand, Thing, bearer, method, running, token

OTHER = "33333333-3333-7333-8333-333333333333"


async def test_one_caller_cannot_hold_all_streams(certificate_directory: Any) -> None:
    async with running(certificate_directory, maximum_streams_per_caller=2) as stand:
        first = [await watching(stand, token()) for _ in range(2)]
        refused = await refusal(stand, token())
        assert (refused.code, refused.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_AT_ONCE")
        assert refused.metadata == {"limit": "2", "of": "streams"}
        assert refused.retry_after
        other = await watching(stand, token(sub=OTHER))
        first.pop().cancel()
        await until_watching(stand, token())
        other.cancel()


async def test_who_has_not_signed_in_is_known_by_the_address(certificate_directory: Any) -> None:
    async with running(certificate_directory, maximum_streams_per_caller=1) as stand:
        await watching(stand, address="192.0.2.1")
        assert (await refusal(stand, address="192.0.2.1")).reason == "TOO_MANY_AT_ONCE"
        await watching(stand, address="192.0.2.2")


async def watching(stand: Stand, text: str = "", address: str = "192.0.2.9") -> Any:
    """A stream that stays open, once it has begun."""
    metadata = (("x-forwarded-for", address), *(bearer(text) if text else ()))
    stream = method(stand.channel(), "Watch")(Thing(text="hold", count=1), metadata=metadata)
    assert await stream.read() == Thing()
    return stream


async def until_watching(stand: Stand, text: str) -> None:
    """A place is free when the server has seen that a stream ended, a moment after its client."""
    for _ in range(100):
        try:
            await watching(stand, text)
        except grpc.aio.AioRpcError:
            continue
        return
    pytest.fail("no place came free")


async def refusal(stand: Stand, text: str = "", address: str = "192.0.2.9") -> errors.MeshError:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await watching(stand, text, address)
    return errors.from_rpc(refused.value)


async def test_a_call_that_is_over_holds_nothing(certificate_directory: Any) -> None:
    async with running(certificate_directory, maximum_calls_per_caller=1) as stand:
        call = method(stand.channel(), "Mine")
        for _ in range(3):
            assert (await call(Thing(text="again"), metadata=bearer(token()))).text == "again"
