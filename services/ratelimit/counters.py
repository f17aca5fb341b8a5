"""Counts requests in fixed windows, in Valkey, for all edges together."""

import hashlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from chassis.outside import Valkey

# The edge waits 250 ms for a response; a later one is of no use.
TIMEOUT_SECONDS = 0.15


@dataclass(frozen=True, slots=True)
class Count:
    """Requests in the current window, this one included, and the seconds until the window ends."""

    requests: int
    reset_seconds: int


class Counters:
    """Counters in fixed windows that begin at whole units of the clock, so that every replica uses the same windows."""

    def __init__(self, url: str, now: Callable[[], float] = time.time) -> None:
        """Counters in the Valkey at a URL; connects at the first call."""
        self._valkey = Valkey(url, timeout=TIMEOUT_SECONDS)
        self._now = now

    async def close(self) -> None:
        """Closes the connection."""
        await self._valkey.close()

    async def add(self, hits: int, names: Sequence[tuple[str, int]]) -> list[Count]:
        """Adds `hits` to each counter, given by name and window length in seconds, in one round trip.

        Raises Unavailable DEPENDENCY_UNAVAILABLE when Valkey does not respond.
        """
        moment = self._now()
        keys = [(_key(name, seconds, moment), seconds) for name, seconds in names]
        counts = [("INCRBY", key, hits) for key, _ in keys]
        expiries = [("EXPIRE", key, seconds * 2) for key, seconds in keys]
        replies = await self._valkey.run(*counts, *expiries)
        ends = (seconds - moment % seconds for _, seconds in names)
        return [Count(requests, math.ceil(end)) for requests, end in zip(replies, ends, strict=False)]


def _key(name: str, seconds: int, moment: float) -> str:
    # Names hold addresses and user ids, so Valkey gets only a hash of them.
    trace = hashlib.sha256(name.encode()).hexdigest()[:32]
    return f"ratelimit:{trace}:{int(moment // seconds)}"
