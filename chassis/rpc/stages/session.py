"""The session behind a server stream: a stream ends when its caller's token expires or is revoked."""

import asyncio
from typing import Any

from chassis.contract.methods import MethodContract
from chassis.core.tasks import checkpoint
from chassis.rpc.call import Call
from chassis.rpc.stage import Proceed, Stage
from chassis.trust.tokens import Principal, TokenVerifier

# Together with the time in which a process learns of a revocation, this is less than 5 s.
_LOOK_SECONDS = 1.0


def stage(contract: MethodContract, verifier: TokenVerifier) -> Stage | None:
    """Returns the stage of a server stream; None for a call that is answered once."""
    return _Session(verifier) if contract.server_streaming else None


class _Session:
    """Raises Unauthenticated TOKEN_INVALID or TOKEN_REVOKED in a stream whose token does not hold any more."""

    def __init__(self, verifier: TokenVerifier) -> None:
        self._verifier = verifier

    async def __call__(self, proceed: Proceed, request: Any, call: Call) -> Any:
        token = call.caller.token
        if not token:
            return await proceed(request, call)
        principal = self._verifier.known(token) or await self._verifier.verify(token)
        limit = asyncio.timeout(None)
        try:
            async with limit:
                looking = asyncio.create_task(self._until_over(principal, limit))
                try:
                    return await proceed(request, call)
                finally:
                    looking.cancel()
        except TimeoutError:
            if limit.expired():
                await self._verifier.verify(token)  # raises what is wrong with it
            raise

    async def _until_over(self, principal: Principal, limit: asyncio.Timeout) -> None:
        while self._verifier.holds(principal):
            checkpoint()
            await asyncio.sleep(_LOOK_SECONDS)
        limit.reschedule(asyncio.get_running_loop().time())
