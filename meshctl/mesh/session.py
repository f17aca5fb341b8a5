"""An operator's session: by certificate, so that it needs neither a password nor the edge."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Self, TypeVar

import grpc
from protomesh.identity.v1.auth_service_pb2 import IssueOperatorTokenRequest
from protomesh.identity.v1.auth_service_pb2_grpc import AuthServiceStub

from chassis.core import from_rpc
from meshctl.core.failure import OperatorError
from meshctl.mesh.running import RunningMesh

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


class OperatorSession:
    """An administrator's session at the services: `async with OperatorSession(mesh) as session`.

    Stubs use `session.channel`, and their calls go through `session.call`, which asks for a token when necessary.
    """

    def __init__(self, mesh: RunningMesh) -> None:
        self.channel = mesh.channel("operator")
        self._auth = AuthServiceStub(self.channel)
        self._asking = asyncio.Lock()
        self._token = ""

    @classmethod
    def of(cls, data: Path) -> Self:
        """Returns the session at the mesh of a data folder. Raises OperatorError when none runs there."""
        return cls(RunningMesh.on(data))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.channel.close()

    async def call(self, rpc: Callable[[Metadata], Awaitable[Answer]]) -> Answer:
        """Makes a call with the session's token, and repeats it after a pause while the mesh is in a passing state.

        Raises OperatorError when the service cannot be reached or refuses.
        """
        for pause in (*_PAUSES, None):
            token = await self.token()
            try:
                return await rpc([("authorization", f"Bearer {token}")])
            except grpc.aio.AioRpcError as error:
                if pause is None or error.code() not in {*_PASSING, grpc.StatusCode.UNAUTHENTICATED}:
                    raise _refused(error) from None
                if error.code() is grpc.StatusCode.UNAUTHENTICATED:
                    await self._renew(token)
                else:
                    await asyncio.sleep(max(pause, from_rpc(error).retry_after or 0))
        raise AssertionError

    async def token(self) -> str:
        """Returns the session's access token."""
        return self._token or await self._renew("")

    async def _renew(self, stale: str) -> str:
        """Returns a token other than the stale one; of several calls whose token has expired, one asks for it."""
        async with self._asking:
            if self._token == stale:
                request = IssueOperatorTokenRequest()
                try:
                    grant = await self._auth.IssueOperatorToken(
                        request, timeout=CALL_SECONDS, wait_for_ready=True
                    )
                except grpc.aio.AioRpcError as error:
                    raise _refused(error) from None
                self._token = grant.access_token
            return self._token


def _refused(error: grpc.aio.AioRpcError) -> OperatorError:
    failure = from_rpc(error)
    if not failure.reason:
        return OperatorError("The services cannot be reached: see `meshctl status`.")
    violations = "".join(f" {field}: {description}." for field, description in failure.violations)
    return OperatorError(f"The mesh refused the call: {failure.message}{violations} ({failure.reason})")
