"""Load shedding: a server takes as many calls as it can finish in time, and refuses further ones immediately."""

import time
from collections.abc import Awaitable
from typing import Any

from chassis.contract.methods import MethodContract
from chassis.core.errors import overloaded
from chassis.rpc.call import Call
from chassis.rpc.stage import Proceed, Stage

# A call that took more than this fraction of its contract's timeout was late: its caller still had time, but the queue
# behind it grows.
_IN_TIME = 0.25
# In seconds: within this, no call was late. A busy machine delays a call by a tenth of a second with nothing in line.
_NEVER_LATE = 0.2
# In seconds: after this, every call was late, however long its contract lets it take. An RPC that is slow by nature
# keeps the minimum.
_ALWAYS_LATE = 1.0
# The largest fraction of the limit that is left after a late call, and what a call in time adds, divided by the limit.
_DECREASE = 0.9
_INCREASE = 4.0
# The minimum limit of an RPC, however late its calls are: one that is slow by nature is not overloaded.
_LEAST = 16.0


class Admission:
    """What a server runs at once: a budget for all calls, one for all streams, and a separate limit for each RPC.

    A server stream may stay open for minutes and mostly sleeps: streams must not use up the budget of calls, nor calls
    that of streams.
    """

    def __init__(self, calls: int, streams: int) -> None:
        self._calls = _Budget(calls)
        self._streams = _Budget(streams)

    def stage(self, contract: MethodContract) -> Stage:
        """Returns the stage of an RPC, with its budget, and its own limit unless it is a stream."""
        if contract.server_streaming:
            return _Streams(self._streams)
        return _Calls(self._calls, contract.timeout)


class _Budget:
    """How many calls run, and how many may."""

    __slots__ = ("limit", "running")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.running = 0


class _Streams:
    """The counter of streams. Raises ResourceExhausted OVERLOADED for one too many."""

    def __init__(self, budget: _Budget) -> None:
        self._budget = budget

    def __call__(self, proceed: Proceed, request: Any, call: Call) -> Awaitable[Any]:
        if self._budget.running >= self._budget.limit:
            raise overloaded()
        self._budget.running += 1
        call.at_end(self._leave)
        return proceed(request, call)

    def _leave(self, _: Call) -> None:
        self._budget.running -= 1


class _Calls:
    """The counter of an RPC's calls. Raises ResourceExhausted OVERLOADED for more than can finish in time.

    The limit follows measurements (docs/decisions/load-shedding.md): it shrinks when calls are late, whatever is short
    (the processor, the database, another service), and grows as long as they are in time.
    """

    def __init__(self, budget: _Budget, timeout: float) -> None:
        self._budget = budget
        self._in_time = min(timeout, max(timeout * _IN_TIME, _NEVER_LATE), _ALWAYS_LATE)
        self._limit = float(budget.limit)
        self._running = 0
        self._shrunk_at = 0.0

    def __call__(self, proceed: Proceed, request: Any, call: Call) -> Awaitable[Any]:
        if self._running >= self._limit or self._budget.running >= self._budget.limit:
            raise overloaded()
        self._running += 1
        self._budget.running += 1
        call.at_end(self._leave)
        return proceed(request, call)

    def _leave(self, call: Call) -> None:
        running = self._running
        self._running -= 1
        self._budget.running -= 1
        took = time.monotonic() - call.arrived
        # Judged by our own time and not by the code: a caller's short deadline says nothing about the server.
        if took > self._in_time:
            self._shrink(call, running, took)
        elif running * 2 > self._limit:
            self._limit = min(self._budget.limit, self._limit + _INCREASE / self._limit)

    def _shrink(self, call: Call, running: int, took: float) -> None:
        """Lowers the limit to what would have been in time at this pace; once for all calls that arrived before."""
        if call.arrived > self._shrunk_at:
            pace = min(_DECREASE, self._in_time / took)
            self._limit = max(_LEAST, min(self._limit, running) * pace)
            self._shrunk_at = call.arrived + took
