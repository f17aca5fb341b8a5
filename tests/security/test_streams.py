"""A stream ends with the session behind it."""

import time
from typing import Any

import grpc
import pytest

from chassis.core import errors
from tests.unit.chassis.stand import Thing, bearer, method, running, token

USER, SESSION = "11111111-1111-7111-8111-111111111111", "22222222-2222-7222-8222-222222222222"
NOT_LONG = 6.0


async def refusal(stream: Any) -> str:
    """Why a stream ended that would stay open by itself."""
    began = time.monotonic()
    with pytest.raises(grpc.aio.AioRpcError) as ended:
        await stream.read()
    assert time.monotonic() - began < NOT_LONG
    assert ended.value.code() is grpc.StatusCode.UNAUTHENTICATED
    return errors.reason_of(ended.value)


async def test_a_stream_ends_when_its_session_is_revoked(certificate_directory: Any) -> None:
    async with running(certificate_directory) as stand:
        stream = method(stand.channel(), "Watch")(Thing(text="hold", count=1), metadata=bearer(token()))
        assert await stream.read() == Thing()
        stand.service.revocations.revoke(USER, [SESSION], time.time())
        assert await refusal(stream) == "TOKEN_REVOKED"


async def test_a_stream_ends_when_its_token_expires(certificate_directory: Any) -> None:
    async with running(certificate_directory) as stand:
        short = token(exp=time.time() + 0.8)
        stream = method(stand.channel(), "Watch")(Thing(text="hold", count=1), metadata=bearer(short))
        assert await stream.read() == Thing()
        assert await refusal(stream) == "TOKEN_INVALID"
