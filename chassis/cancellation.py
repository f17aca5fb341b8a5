"""Cancellation that cannot get lost."""

import asyncio


def checkpoint() -> None:
    """Raises CancelledError in a task that was cancelled and still runs: for loops that must end at a drain.

    Before Python 3.12 `asyncio.wait_for`, which client libraries are full of, swallows a cancellation that comes at
    the same moment as the result; the loop around it would run on for ever.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
