"""Deadlines: no call runs longer than its caller waits, nor longer than its contract allows."""

import asyncio
from typing import Any

from chassis.call import Call
from chassis.contract import MethodContract
from chassis.errors import deadline_exceeded
from chassis.stage import Proceed


class Deadline:
    """The stage that ends a call in time. Cancelling it cancels whatever it awaits, SQL statements too."""

    def __init__(self, contract: MethodContract) -> None:
        self._timeout = contract.timeout

    async def __call__(self, request: Any, call: Call, proceed: Proceed) -> Any:
        asked = call.context.time_remaining()
        seconds = self._timeout if asked is None else min(asked, self._timeout)
        call.deadline = asyncio.get_running_loop().time() + seconds
        limit = asyncio.timeout_at(call.deadline)
        try:
            async with limit:
                return await proceed(request, call)
        except TimeoutError:
            if limit.expired():
                raise deadline_exceeded() from None
            raise
