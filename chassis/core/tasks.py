"""Tasks: work beside the server that never fails unseen, and cancellation that cannot get lost."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

Worker = Callable[[], Awaitable[None]]


@asynccontextmanager
async def background(workers: Sequence[Worker]) -> AsyncIterator["asyncio.Future[None]"]:
    """Runs workers until the block ends. The future that it gives fails with the first of them."""
    failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    tasks = [asyncio.ensure_future(_watched(worker, failed)) for worker in workers]
    try:
        yield failed
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        failed.cancel()


async def _watched(worker: Worker, failed: "asyncio.Future[None]") -> None:
    try:
        await worker()
    except Exception as error:  # noqa: BLE001 (whoever waits for the future sees it)
        if not failed.done():
            failed.set_exception(error)


async def first(event: asyncio.Event, failed: "asyncio.Future[None]") -> None:
    """Waits for the event; raises when a worker fails before."""
    waiting = asyncio.ensure_future(event.wait())
    running: set[asyncio.Future[Any]] = {waiting, failed}
    try:
        await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
    if failed.done():
        failed.result()


def checkpoint() -> None:
    """Raises CancelledError in a task that was cancelled and still runs: for loops that must end at a drain.

    Before Python 3.12 `asyncio.wait_for`, which client libraries are full of, swallows a cancellation that comes at
    the same moment as the result; the loop around it would run on for ever.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
