"""Counts requests in fixed windows, in Valkey, for all edges together."""

import hashlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from chassis.core import Unavailable

# The edge waits 250 ms for a response; a later one is of no use.
TIMEOUT_SECONDS = 0.15


@dataclass(frozen=True, slots=True)
class Count:
    """Requests in the current window, this one included, and the seconds until the window ends."""

    requests: int
    reset_seconds: int


class Counters:
    """Counters in fixed windows that begin at whole units of the clock, so that every replica uses the same windows."""

    def __init__(self, valkey: Redis, now: Callable[[], float] = time.time) -> None:
        self._valkey = valkey
        self._now = now

    @classmethod
    def at(cls, url: str, now: Callable[[], float] = time.time) -> Self:
        """Counters in the Valkey at a `redis://` or `valkey://` URL; connects at the first call."""
        valkey = Redis.from_url(
            "redis" + url.removeprefix("valkey").removeprefix("redis"),
            socket_timeout=TIMEOUT_SECONDS,
            socket_connect_timeout=TIMEOUT_SECONDS,
            # A lost connection is opened again, once and without delay.
            retry=Retry(NoBackoff(), 1),
        )
        return cls(valkey, now)

    async def close(self) -> None:
        """Closes the connections."""
        await self._valkey.aclose()

    async def add(self, hits: int, names: Sequence[tuple[str, int]]) -> list[Count]:
        """Adds `hits` to each counter, given by name and window length in seconds, in one round trip.

        Raises Unavailable DEPENDENCY_UNAVAILABLE when Valkey does not respond.
        """
        moment = self._now()
        pipeline = self._valkey.pipeline(transaction=False)
        for name, seconds in names:
            key = _key(name, seconds, moment)
            pipeline.incrby(key, hits)
            pipeline.expire(key, seconds * 2)
        try:
            answers = await pipeline.execute()
        except (RedisError, OSError) as error:
            raise Unavailable(
                "DEPENDENCY_UNAVAILABLE", "The rate limit counters in Valkey are not reachable; try again."
            ) from error
        ends = (seconds - moment % seconds for _, seconds in names)
        return [Count(requests, math.ceil(end)) for requests, end in zip(answers[::2], ends, strict=True)]


def _key(name: str, seconds: int, moment: float) -> str:
    # Names hold addresses and user ids, so Valkey gets only a hash of them.
    trace = hashlib.sha256(name.encode()).hexdigest()[:32]
    return f"ratelimit:{trace}:{int(moment // seconds)}"
