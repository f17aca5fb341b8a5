"""Load shedding: a server that has as many calls as it takes refuses the next one at once."""

from typing import Any

from chassis.call import Call
from chassis.errors import ResourceExhausted
from chassis.stage import Proceed

_RETRY_SECONDS = 1.0


class Admission:
    """The stage that counts what runs; one object is shared by all RPCs of a server."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._running = 0

    async def __call__(self, request: Any, call: Call, proceed: Proceed) -> Any:
        if self._running >= self._limit:
            raise ResourceExhausted(
                "OVERLOADED", "The server is busy; try again in a moment.", retry_after=_RETRY_SECONDS
            )
        self._running += 1
        try:
            return await proceed(request, call)
        finally:
            self._running -= 1
