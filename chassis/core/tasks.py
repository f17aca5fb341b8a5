"""Tasks: background work whose failures are never lost, and cancellation that is never swallowed."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, NoReturn

Worker = Callable[[], Awaitable[None]]


@asynccontextmanager
async def background(workers: Sequence[Worker]) -> AsyncIterator["asyncio.Future[None]"]:
    """Runs workers until the block ends. The future that it yields fails with the first worker that fails."""
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
    except Exception as error:  # noqa: BLE001 (the error goes to whoever awaits the future)
        if not failed.done():
            failed.set_exception(error)


async def first(event: asyncio.Event, failed: "asyncio.Future[None]") -> None:
    """Waits for the event; raises if a worker fails first."""
    waiting = asyncio.ensure_future(event.wait())
    running: set[asyncio.Future[Any]] = {waiting, failed}
    try:
        await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
    if failed.done():
        failed.result()


async def wait_up_to(event: asyncio.Event, seconds: float) -> None:
    """Waits for the event, but no longer than this."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()


def checkpoint() -> None:
    """Raises CancelledError in a task that was cancelled but still runs: for loops that must end during a drain.

    Before Python 3.12, `asyncio.wait_for`, which client libraries use widely, swallows a cancellation that arrives
    together with the result; the loop around it would run forever.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


async def repeat(
    step: Callable[[], Awaitable[int | None]],
    *,
    every: float,
    log: logging.Logger,
    failure: str,
    batch: int | None = None,
) -> NoReturn:
    """Takes a step every so many seconds until cancelled; after a step that did a full batch, the next one at once.

    A step that fails is tried again. Of failures in a row only the first is logged with its traceback, since an outage
    makes hundreds of them.
    """
    failing = False
    while True:
        checkpoint()
        done: int | None = None
        try:
            done = await step()
            failing = False
        except Exception as error:
            log.exception(
                "%s (%s); trying again in %g s.", failure, type(error).__name__, every, exc_info=not failing
            )
            failing = True
        if batch is None or done != batch:
            await asyncio.sleep(every)
