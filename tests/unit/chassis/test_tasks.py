"""Tasks: a cancellation that a library swallowed still ends the loop around it."""

import asyncio

from chassis.core import checkpoint


async def test_a_checkpoint_ends_a_task_whose_cancellation_was_swallowed() -> None:
    waiting = asyncio.Event()
    turns: list[int] = []

    async def loop() -> None:
        while len(turns) < 3:
            checkpoint()
            turns.append(1)
            try:
                waiting.set()
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                pass  # as `asyncio.wait_for` does before Python 3.12 when a result comes at the same moment

    task = asyncio.ensure_future(loop())
    await waiting.wait()
    task.cancel()
    await asyncio.wait([task], timeout=5)
    assert task.cancelled()
    assert len(turns) == 1


async def test_a_checkpoint_lets_a_task_go_on_that_nobody_cancelled() -> None:
    checkpoint()
