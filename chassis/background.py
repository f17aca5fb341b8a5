"""Work beside the server: started with it, cancelled at its end, and never failing unseen."""

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
