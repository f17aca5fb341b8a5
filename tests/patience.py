"""Waiting for what takes its time: for what no event tells of, and for a call that is refused in a rush."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Collection
from typing import Any, TypeVar, cast

import grpc
import httpx

from chassis.core import from_rpc

Answer = TypeVar("Answer")

# Nothing was done.
BUSY = frozenset({"OVERLOADED"})
# Perhaps something was done, or is being done by an earlier attempt: for a call that may be repeated as it is.
UNFINISHED = BUSY | {
    "DEADLINE_EXCEEDED",
    "DEPENDENCY_UNAVAILABLE",
    "CONFLICT",
    "IDEMPOTENCY_KEY_IN_FLIGHT",
}
# For a refusal that names no time.
PAUSE_SECONDS = 0.2
# Between two looks at what tells nobody when it changes.
LOOK_SECONDS = 0.05


async def eventually(
    look: Callable[[], Awaitable[Answer]] | Callable[[], bool], within: float = 60.0
) -> Answer:
    """Looks until it sees something that is true or not empty, and returns that; `within` is in seconds.

    For another program's state, a log, and whatever else sets no event. Raises TimeoutError.
    """
    async with asyncio.timeout(within):
        while True:
            seen: Any = look()
            if inspect.isawaitable(seen):
                seen = await seen
            if seen:
                return cast(Answer, seen)
            await asyncio.sleep(LOOK_SECONDS)


async def patiently(
    ask: Callable[[], Awaitable[Answer]], passing: Collection[str] = BUSY, within: float = 120.0
) -> Answer:
    """What `ask` gives, a message or a response, once it is no refusal for a passing reason; `within` is in seconds.

    It asks again, and not before the refusal says that it may.

    A refusal for any other reason is an answer: a response is given back, a gRPC error is raised.
    """
    async with asyncio.timeout(within):
        while True:
            try:
                answer = await ask()
            except grpc.aio.AioRpcError as error:
                refused = from_rpc(error)
                # A deadline that passes at the caller has no reason.
                if (refused.reason or error.code().name) not in passing:
                    raise
                pause = refused.retry_after
            else:
                if not isinstance(answer, httpx.Response) or _reason(answer) not in passing:
                    return answer
                pause = float(answer.headers.get("retry-after", 0))
            await asyncio.sleep(pause or PAUSE_SECONDS)


def _reason(answer: httpx.Response) -> str:
    """The reason in an error's ErrorInfo; none for a success."""
    details: list[dict[str, Any]] = answer.json()["details"] if answer.is_error else []
    return next((detail["reason"] for detail in details if "reason" in detail), "")
