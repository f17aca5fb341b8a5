"""Deadlines: no call runs longer than its caller waits, nor longer than its contract allows."""

import asyncio
from collections.abc import Awaitable
from typing import Any

from chassis.contract.methods import MethodContract
from chassis.core.errors import deadline_exceeded
from chassis.rpc.call import Call
from chassis.rpc.stage import Proceed

# gRPC sends a timeout in few digits, rounded up, so who asks for the contract's own time seems to ask for a bit more.
_ROUNDED_UP = 1.02


class Deadline:
    """The stage that ends a call in time. Cancelling it cancels whatever it awaits, SQL statements too."""

    def __init__(self, contract: MethodContract) -> None:
        self._timeout = contract.timeout

    def __call__(self, proceed: Proceed, request: Any, call: Call) -> Awaitable[Any]:
        asked = call.context.time_remaining()
        if asked is None or asked > self._timeout * _ROUNDED_UP:
            return self._limited(proceed, request, call)
        # gRPC itself cancels the call when its caller's time is up.
        call.deadline = call.arrived + min(asked, self._timeout)
        return proceed(request, call)

    async def _limited(self, proceed: Proceed, request: Any, call: Call) -> Any:
        call.deadline = call.arrived + self._timeout
        limit = _Limit(call.deadline)
        try:
            return await proceed(request, call)
        except asyncio.CancelledError:
            if limit.expired():
                raise deadline_exceeded() from None
            raise
        finally:
            limit.lift()


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

    def lift(self) -> None:
        """Lets the task go on without limit."""
        self._timer.cancel()
