"""Tasks: loops outlive failures, and a cancellation that a library swallowed still ends the loop around it."""

import asyncio
import logging

import pytest

from chassis.core import checkpoint, repeat

log = logging.getLogger(__name__)


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


class Step:
    """A step with given outcomes; the loop around it is cancelled at the step after the last."""

    def __init__(self, *outcomes: int | Exception | None) -> None:
        self._outcomes = list(outcomes)
        self.ended = asyncio.Event()

    async def __call__(self) -> int | None:
        if not self._outcomes:
            self.ended.set()
            await asyncio.Event().wait()
        outcome = self._outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


async def ends(step: Step, every: float, batch: int | None = None, within: float = 60) -> bool:
    """Whether all outcomes come within so many seconds."""
    loop = asyncio.ensure_future(
        repeat(step, every=every, log=log, failure="The shelf could not be tidied", batch=batch)
    )
    try:
        async with asyncio.timeout(within):
            await step.ended.wait()
    except TimeoutError:
        return False
    finally:
        loop.cancel()
        await asyncio.wait([loop])
        assert loop.cancelled()
    return True


async def test_after_a_full_batch_the_next_step_follows_at_once() -> None:
    assert await ends(Step(10, 10, 10), every=3600, batch=10)


@pytest.mark.parametrize(("done", "batch"), [(9, 10), (None, None), (ValueError(), 10)])
async def test_the_next_step_waits_for_its_time(done: int | Exception | None, batch: int | None) -> None:
    assert not await ends(Step(done), every=3600, batch=batch, within=0.05)


async def test_steps_go_on_after_failures_and_only_the_first_in_a_row_has_a_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert await ends(Step(OSError("away"), OSError("away"), None, ValueError("odd")), every=0.01)
    assert [(record.getMessage(), bool(record.exc_info)) for record in caplog.records] == [
        ("The shelf could not be tidied (OSError); trying again in 0.01 s.", True),
        ("The shelf could not be tidied (OSError); trying again in 0.01 s.", False),
        ("The shelf could not be tidied (ValueError); trying again in 0.01 s.", True),
    ]
