"""Polling for state that sends no event, such as that of another program."""

import asyncio
from collections.abc import Awaitable, Callable

INTERVAL = 0.1


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Returns once the condition holds; the caller sets the time limit."""
    while not await condition():  # noqa: ASYNC110  another program sets no event of ours
        await asyncio.sleep(INTERVAL)
