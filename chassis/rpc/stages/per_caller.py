"""Bounds per caller, so that no caller uses up the capacity that is meant for all."""

from collections.abc import Awaitable
from typing import Any

from chassis.contract.methods import MethodContract
from chassis.core.errors import ResourceExhausted
from chassis.rpc.call import Call
from chassis.rpc.stage import Proceed, Stage

_RETRY_SECONDS = 1.0


class PerCaller:
    """The bounds on what one caller has open in a process: calls, and server streams."""

    def __init__(self, calls: int, streams: int) -> None:
        self._calls = _Held("calls", calls)
        self._streams = _Held("streams", streams)

    def stage(self, contract: MethodContract) -> Stage | None:
        """Returns the stage of an RPC; None for one that other services call, and for short public calls."""
        assert contract.access is not None
        if contract.access.kind == "internal":
            return None
        if contract.server_streaming:
            return self._streams
        return None if contract.access.kind == "public" else self._calls


class _Held:
    """The counter of what each caller has open. Raises ResourceExhausted TOO_MANY_AT_ONCE for one too many."""

    def __init__(self, what: str, limit: int) -> None:
        self._what = what
        self._limit = limit
        self._held: dict[str, int] = {}

    def __call__(self, proceed: Proceed, request: Any, call: Call) -> Awaitable[Any]:
        # A caller who is not signed in is identified by the address that the edge saw.
        caller = call.caller.user_id or call.address
        held = self._held.get(caller, 0)
        if held >= self._limit:
            raise self._refusal()
        self._held[caller] = held + 1

        def leave(_: Call) -> None:
            left = self._held[caller] - 1
            if left:
                self._held[caller] = left
            else:
                del self._held[caller]

        call.at_end(leave)
        return proceed(request, call)

    def _refusal(self) -> ResourceExhausted:
        sentence = (
            f"You have {self._limit} {self._what} open, the most that one caller may have; finish one first."
        )
        return ResourceExhausted(
            "TOO_MANY_AT_ONCE",
            sentence,
            metadata={"limit": str(self._limit), "of": self._what},
            violations=[(self._what, sentence)],
            retry_after=_RETRY_SECONDS,
        )
