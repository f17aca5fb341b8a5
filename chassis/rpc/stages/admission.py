"""Load shedding: a server that has as many calls as it takes refuses the next one at once."""

from collections.abc import Awaitable
from typing import Any

from chassis.contract.methods import MethodContract
from chassis.core.errors import overloaded
from chassis.rpc.call import Call
from chassis.rpc.stage import Proceed, Stage


class Admission:
    """The two budgets of a server, each shared by all its RPCs of a kind.

    A server stream may stay open for minutes and mostly sleeps: those who watch must not use up the room of those who
    call, nor the other way round.
    """

    def __init__(self, calls: int, streams: int) -> None:
        self._calls = _Budget(calls)
        self._streams = _Budget(streams)

    def stage(self, contract: MethodContract) -> Stage:
        """The stage of an RPC: the budget that it counts on."""
        return self._streams if contract.server_streaming else self._calls


class _Budget:
    """Counts what runs. ResourceExhausted OVERLOADED for one call too many."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._running = 0

    def __call__(self, proceed: Proceed, request: Any, call: Call) -> Awaitable[Any]:
        if self._running >= self._limit:
            raise overloaded()
        self._running += 1
        call.at_end(self._leave)
        return proceed(request, call)

    def _leave(self, _: Call) -> None:
        self._running -= 1
