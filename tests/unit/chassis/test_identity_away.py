"""Services while identity hangs, resets its connections, or is slow to answer."""

import asyncio
import pathlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import pytest
from protomesh.identity.v1.auth_service_pb2 import GetJsonWebKeySetRequest, JsonWebKey, JsonWebKeySet

from chassis.core import Settings
from chassis.rpc import MeshChannel, identity_keys
from tests.patience import eventually
from tests.proxy import Proxy
from tests.unit.chassis.stand import KEY, KEY_ID, Stand, Thing, bearer, method, running, token

CALLERS = 20


class SlowIdentity:
    """Publishes the stand's key; answers when it is let."""

    def __init__(self) -> None:
        self.answer = asyncio.Event()
        self.asked = 0

    async def GetJsonWebKeySet(self, request: GetJsonWebKeySetRequest, context: object) -> JsonWebKeySet:
        self.asked += 1
        await self.answer.wait()
        public = {name: str(value) for name, value in KEY.as_dict(private=False).items()}
        return JsonWebKeySet(keys=[JsonWebKey(**{**public, "kid": KEY_ID})])


@asynccontextmanager
async def slow_identity() -> AsyncIterator[tuple[SlowIdentity, Proxy]]:
    identity, server = SlowIdentity(), grpc.aio.server()
    handler = grpc.unary_unary_rpc_method_handler(
        identity.GetJsonWebKeySet,
        GetJsonWebKeySetRequest.FromString,
        JsonWebKeySet.SerializeToString,
    )
    handlers = {"GetJsonWebKeySet": handler}
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler("protomesh.identity.v1.AuthService", handlers)]
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with Proxy.before("127.0.0.1", port) as proxy:
        yield identity, proxy
    await server.stop(None)


@asynccontextmanager
async def relying_on(port: int, directory: pathlib.Path) -> AsyncIterator[Stand]:
    """A service whose keys come from an identity on this port."""
    settings = Settings(service="scratch", targets={"identity": f"ipv4:127.0.0.1:{port}"})
    async with (
        MeshChannel(settings) as mesh,
        running(directory, token_keys=identity_keys(mesh)) as stand,
    ):
        yield stand


async def codes(stand: Stand, text: str) -> list[grpc.StatusCode]:
    """How each of many callers is answered who come at once with a token that nobody has seen."""
    call = method(stand.channel(), "Mine")

    async def code() -> grpc.StatusCode:
        try:
            await call(Thing(), metadata=bearer(text))
        except grpc.aio.AioRpcError as error:
            return error.code()
        return grpc.StatusCode.OK

    return await asyncio.gather(*(code() for _ in range(CALLERS)))


async def test_a_hanging_identity_makes_nobody_wait_for_those_before(
    certificate_directory: pathlib.Path,
) -> None:
    async with slow_identity() as (identity, proxy):
        identity.answer.set()
        proxy.hang()
        async with relying_on(proxy.port, certificate_directory) as stand:
            assert set(await codes(stand, token())) == {grpc.StatusCode.UNAVAILABLE}
            proxy.heal()

            async def all_are_served() -> bool:
                return set(await codes(stand, token())) == {grpc.StatusCode.OK}

            await eventually(all_are_served, within=10)


async def test_an_identity_that_resets_connections_makes_nobody_wait_for_those_before(
    certificate_directory: pathlib.Path,
) -> None:
    # Nothing listens on the discard port.
    async with (
        Proxy.before("127.0.0.1", 9) as nobody,
        relying_on(nobody.port, certificate_directory) as stand,
    ):
        assert set(await codes(stand, token())) == {grpc.StatusCode.UNAVAILABLE}


async def test_a_slow_identity_is_asked_once_whatever_becomes_of_those_who_wait(
    certificate_directory: pathlib.Path,
) -> None:
    async with (
        slow_identity() as (identity, proxy),
        relying_on(proxy.port, certificate_directory) as stand,
    ):
        call = method(stand.channel(), "Mine")
        with pytest.raises(grpc.aio.AioRpcError) as late:
            # Its deadline is not the fetch's.
            await call(Thing(), metadata=bearer(token()), timeout=0.1)
        assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        waiting = asyncio.create_task(codes(stand, token()))
        await asyncio.sleep(0.1)
        identity.answer.set()
        assert set(await waiting) == {grpc.StatusCode.OK}
        assert identity.asked == 1
