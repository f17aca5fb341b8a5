"""An operator's session: signed in at the edge, over native gRPC."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Self, TypeVar
from urllib.parse import urlsplit

import dotenv
import grpc
from protomesh.identity.v1.auth_service_pb2 import LoginUserRequest
from protomesh.identity.v1.auth_service_pb2_grpc import AuthServiceStub

from chassis.core import from_rpc
from meshctl.core.failure import OperatorError
from meshctl.core.folder import MeshFolder

Answer = TypeVar("Answer")
Metadata = list[tuple[str, str]]

CALL_SECONDS = 15.0
# Passing states of the mesh: a restart, a rush, somebody else's change of the same rows.
_PASSING = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
}
_PAUSES = (0.2, 0.5, 1.0, 2.0, 4.0, 8.0, 8.0, 8.0)


class EdgeSession:
    """An operator's signed-in session at the edge: `async with EdgeSession(url, email, password) as session`.

    Stubs use `session.channel`, and their calls go through `session.call`, which signs in when necessary.
    """

    def __init__(self, edge_url: str, email: str, password: str) -> None:
        self.edge_url = edge_url
        self._login = LoginUserRequest(email=email, password=password)
        self.channel = _channel(edge_url)
        self._auth = AuthServiceStub(self.channel)
        self._signing_in = asyncio.Lock()
        self._token = ""

    @classmethod
    def of(cls, data: Path) -> Self:
        """Returns the administrator's session at the mesh of a data folder."""
        known = dotenv.dotenv_values(MeshFolder(data).dev_env)
        try:
            return cls(*(str(known[name]) for name in ("EDGE_URL", "ADMIN_EMAIL", "ADMIN_PASSWORD")))
        except KeyError:
            raise OperatorError(f"There is no mesh on {data}: start one with ./scripts/up.") from None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.channel.close()

    async def call(self, rpc: Callable[[Metadata], Awaitable[Answer]]) -> Answer:
        """Makes a call with the session's token, and repeats it after a pause while the mesh is in a passing state.

        Raises OperatorError when the edge cannot be reached or the mesh refuses.
        """
        for pause in (*_PAUSES, None):
            token = await self.token()
            try:
                return await rpc([("authorization", f"Bearer {token}")])
            except grpc.aio.AioRpcError as error:
                if pause is None or error.code() not in {*_PASSING, grpc.StatusCode.UNAUTHENTICATED}:
                    raise self._refused(error) from None
                if error.code() is grpc.StatusCode.UNAUTHENTICATED:
                    await self._sign_in(token)
                else:
                    await asyncio.sleep(max(pause, from_rpc(error).retry_after or 0))
        raise AssertionError

    async def token(self) -> str:
        """Returns the session's access token, for calls that do not go to the edge."""
        return self._token or await self._sign_in("")

    async def _sign_in(self, stale: str) -> str:
        """Returns a token other than the stale one; of several calls whose token has expired, one signs in."""
        async with self._signing_in:
            if self._token == stale:
                try:
                    grant = await self._auth.LoginUser(self._login, timeout=CALL_SECONDS, wait_for_ready=True)
                except grpc.aio.AioRpcError as error:
                    raise self._refused(error) from None
                self._token = grant.access_token
            return self._token

    def _refused(self, error: grpc.aio.AioRpcError) -> OperatorError:
        failure = from_rpc(error)
        if not failure.reason:
            return OperatorError(f"The edge at {self.edge_url} cannot be reached: see `meshctl status`.")
        violations = "".join(f" {field}: {description}." for field, description in failure.violations)
        return OperatorError(f"The mesh refused the call: {failure.message}{violations} ({failure.reason})")


def _channel(edge_url: str) -> grpc.aio.Channel:
    url = urlsplit(edge_url)
    if not url.hostname or url.scheme not in ("http", "https"):
        raise OperatorError(
            f"{edge_url!r} is not the URL of an edge: give one such as http://127.0.0.1:8080."
        )
    target = f"{url.hostname}:{url.port or (443 if url.scheme == 'https' else 80)}"
    if url.scheme == "https":
        return grpc.aio.secure_channel(target, grpc.ssl_channel_credentials())
    return grpc.aio.insecure_channel(target)
