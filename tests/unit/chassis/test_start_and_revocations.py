"""A service that starts while sessions have just ended."""

import asyncio
import logging
import pathlib

import grpc
import pytest
from protomesh.identity.v1.identity_events_pb2 import SessionsRevoked

from chassis import service
from chassis.events import Broker, streams
from tests.proxy import Proxy
from tests.unit.chassis.stand import Thing, bearer, method, running, token
from tests.unit.chassis.test_revocations import USER, through


async def test_no_call_is_served_before_the_revocations_of_before_are_known(
    nats_url: str, certificate_directory: pathlib.Path
) -> None:
    ended = "33333333-3333-7333-8333-333333333333"
    event = SessionsRevoked(user_id=USER, session_ids=[ended])
    event.revoked_at.GetCurrentTime()
    async with Broker(nats_url) as broker:
        await streams.declare(broker, "IDENTITY")
        await broker.publish(f"identity.sessions.revoked.v1.{USER}", event.SerializeToString(), {})
    port = int(nats_url.rpartition(":")[2])
    async with Proxy.before("127.0.0.1", port) as proxy:
        proxy.hang()
        asyncio.get_running_loop().call_later(1.0, proxy.heal)
        async with running(certificate_directory, nats_url=through(proxy, nats_url)) as stand:
            with pytest.raises(grpc.aio.AioRpcError) as refusal:
                await method(stand.channel(), "Mine")(Thing(), metadata=bearer(token(sid=ended)))
            assert refusal.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_a_service_starts_without_nats_after_a_while_and_says_what_that_means(
    nats_url: str,
    certificate_directory: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(service, "REVOCATIONS_SECONDS", 0.2)
    async with Proxy.before("127.0.0.1", 9) as nobody:
        with caplog.at_level(logging.WARNING, "chassis.service"):
            async with running(certificate_directory, nats_url=through(nobody, nats_url)) as stand:
                assert await method(stand.channel(), "Mine")(Thing(), metadata=bearer(token()))
    assert "NATS does not answer" in caplog.text
