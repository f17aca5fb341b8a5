"""Deadlines: no call runs longer than its caller waits, nor longer than its contract allows."""

import asyncio
from collections.abc import Awaitable
from typing import Any

from chassis.contract.methods import MethodContract
from chassis.rpc.call import Call
from chassis.rpc.stage import Proceed

# Kept of the caller's time for the way back, so that our own status arrives before gRPC ends the call with a bare one:
# this part of it, and no more than that many seconds.
_RESERVE, _LONGEST_RESERVE_SECONDS = 0.1, 0.15


class Deadline:
    """The stage that ends a call in time. Cancelling it cancels whatever it awaits, SQL statements too."""

    def __init__(self, contract: MethodContract) -> None:
        self._timeout = contract.timeout

    def __call__(self, proceed: Proceed, request: Any, call: Call) -> Awaitable[Any]:
        asked = call.context.time_remaining()
        call.deadline = call.arrived + (self._timeout if asked is None else self._allowed(asked))
        call.limit = limit = _Limit(call.deadline)
        call.at_end(limit.lift)
        return proceed(request, call)

    def _allowed(self, asked: float) -> float:
        return min(self._timeout, asked - min(asked * _RESERVE, _LONGEST_RESERVE_SECONDS))


class _Limit:
    """Cancels the current task at a time: `asyncio.timeout_at` without what only nested time limits need."""

    __slots__ = ("_fired", "_task", "_timer")

    def __init__(self, when: float) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._fired = False
        self._timer = asyncio.get_running_loop().call_at(when, self._fire)

    def _fire(self) -> None:
        self._fired = True
        self._task.cancel()

    def expired(self) -> bool:
        """Whether the cancellation was this one's, and no one else's too."""
        return self._fired and self._task.uncancel() == 0

    def lift(self, _: Call) -> None:
        """Lets the task go on without limit."""
        self._timer.cancel()
