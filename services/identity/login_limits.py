"""Limits on failed logins: counted in Valkey for all replicas, and in the process while Valkey is unreachable."""

import asyncio
import hashlib
import time
from collections.abc import Iterator
from typing import Self

from limits import RateLimitItem, parse_many
from limits.aio.storage import MemoryStorage, RedisStorage
from limits.aio.strategies import FixedWindowRateLimiter
from limits.errors import StorageError

from chassis.core import ResourceExhausted
from services.identity.hashing import network_of
from services.identity.settings import IdentitySettings

VALKEY_TIMEOUT_SECONDS = 0.2
# How long a process counts on its own before it tries Valkey again.
RETREAT_SECONDS = 5.0


class LoginLimits:
    """Limits on failures, each a list such as `5/minute; 40/hour`: more failures mean longer waits.

    An attacker cannot lock out an account's owner: a limit applies to one address, and the owner uses another.
    """

    def __init__(self, valkey_url: str, per_account: str, per_address: str) -> None:
        self._per_account = parse_many(per_account)
        self._per_address = parse_many(per_address)
        self._own = FixedWindowRateLimiter(MemoryStorage())
        self._shared = FixedWindowRateLimiter(_valkey(valkey_url)) if valkey_url else self._own
        self._shared_from = 0.0

    @classmethod
    def of(cls, settings: IdentitySettings) -> Self:
        """The limits that the settings name."""
        return cls(settings.valkey_url, settings.login_limits_per_account, settings.login_limits_per_address)

    async def admit(self, account: str, address: str) -> None:
        """Raises ResourceExhausted RATE_LIMITED, with the seconds to wait, when too many have failed."""
        try:
            wait = await self._wait(self._counter(), account, address)
        except StorageError:
            self._retreat()
            wait = await self._wait(self._own, account, address)
        if wait:
            raise ResourceExhausted(
                "RATE_LIMITED",
                "Too many failed logins; try again later.",
                violations=[("login", "Failed logins of an account from an address, or from an address.")],
                retry_after=wait,
            )

    async def count_failure(self, account: str, address: str) -> None:
        """Counts a failed attempt, also in the process: its counts take over when Valkey becomes unreachable."""
        for limit, key in self._limits(account, address):
            await self._own.hit(limit, key)
        counter = self._counter()
        if counter is self._own:
            return
        try:
            await asyncio.gather(*(counter.hit(limit, key) for limit, key in self._limits(account, address)))
        except StorageError:
            self._retreat()

    async def _wait(self, counter: FixedWindowRateLimiter, account: str, address: str) -> float:
        limits = list(self._limits(account, address))
        # Most attempts are within the limits, and finding out how long to wait costs twice as much as whether to wait.
        if all(await asyncio.gather(*(counter.test(limit, key) for limit, key in limits))):
            return 0.0
        windows = await asyncio.gather(*(counter.get_window_stats(limit, key) for limit, key in limits))
        moment = time.time()
        return max(
            (max(1.0, window.reset_time - moment) for window in windows if window.remaining <= 0), default=0.0
        )

    def _limits(self, account: str, address: str) -> Iterator[tuple[RateLimitItem, str]]:
        # Valkey holds no personal data, only this hash of the account.
        trace = hashlib.sha256(account.encode()).hexdigest()[:32]
        network = network_of(address)
        yield from ((limit, f"account:{trace}:{network}") for limit in self._per_account)
        yield from ((limit, f"address:{network}") for limit in self._per_address)

    def _counter(self) -> FixedWindowRateLimiter:
        return self._shared if time.monotonic() >= self._shared_from else self._own

    def _retreat(self) -> None:
        self._shared_from = time.monotonic() + RETREAT_SECONDS


def _valkey(url: str) -> RedisStorage:
    scheme, _, rest = url.partition("://")
    return RedisStorage(
        f"async+{scheme.replace('valkey', 'redis')}://{rest}",
        wrap_exceptions=True,
        implementation="redispy",
        key_prefix="identity:logins",
        socket_timeout=VALKEY_TIMEOUT_SECONDS,
        socket_connect_timeout=VALKEY_TIMEOUT_SECONDS,
    )
