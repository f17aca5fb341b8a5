"""Limits on failed logins: counted in Valkey for all replicas, and in the process while Valkey is unreachable."""

import hashlib
import time
from collections.abc import Iterator, Sequence
from typing import Self

from limits import RateLimitItem, parse_many
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import FixedWindowRateLimiter

from chassis.core import ResourceExhausted, Unavailable
from chassis.outside import Valkey
from services.identity.hashing import network_of
from services.identity.settings import IdentitySettings

VALKEY_TIMEOUT_SECONDS = 0.2
# How long a process counts on its own before it tries Valkey again.
RETREAT_SECONDS = 5.0

# A limit, and whom it counts.
Limit = tuple[RateLimitItem, str]


class LoginLimits:
    """Limits on failures, each a list such as `5/minute; 40/hour`: more failures mean longer waits.

    An attacker cannot lock out an account's owner: a limit applies to one address, and the owner uses another.
    """

    def __init__(self, valkey_url: str, per_account: str, per_address: str) -> None:
        self._per_account = parse_many(per_account)
        self._per_address = parse_many(per_address)
        self._own = FixedWindowRateLimiter(MemoryStorage())
        self._valkey = Valkey(valkey_url, timeout=VALKEY_TIMEOUT_SECONDS) if valkey_url else None
        self._valkey_from = 0.0

    @classmethod
    def of(cls, settings: IdentitySettings) -> Self:
        """The limits that the settings name."""
        return cls(settings.valkey_url, settings.login_limits_per_account, settings.login_limits_per_address)

    async def admit(self, account: str, address: str) -> None:
        """Raises ResourceExhausted RATE_LIMITED, with the seconds to wait, when too many have failed."""
        limits = list(self._limits(account, address))
        valkey = self._shared()
        try:
            wait = await (_wait_by_valkey(valkey, limits) if valkey else self._wait_by_process(limits))
        except Unavailable:
            self._retreat()
            wait = await self._wait_by_process(limits)
        if wait:
            raise ResourceExhausted(
                "RATE_LIMITED",
                "Too many failed logins; try again later.",
                violations=[("login", "Failed logins of an account from an address, or from an address.")],
                retry_after=wait,
            )

    async def count_failure(self, account: str, address: str) -> None:
        """Counts a failed attempt, also in the process: its counts take over when Valkey becomes unreachable."""
        limits = list(self._limits(account, address))
        for limit, key in limits:
            await self._own.hit(limit, key)
        if valkey := self._shared():
            try:
                await _count_in_valkey(valkey, limits)
            except Unavailable:
                self._retreat()

    async def _wait_by_process(self, limits: Sequence[Limit]) -> float:
        windows = [await self._own.get_window_stats(limit, key) for limit, key in limits]
        moment = time.time()
        return max(
            (max(1.0, window.reset_time - moment) for window in windows if window.remaining <= 0), default=0.0
        )

    def _limits(self, account: str, address: str) -> Iterator[Limit]:
        # Valkey holds no personal data, only this hash of the account.
        trace = hashlib.sha256(account.encode()).hexdigest()[:32]
        network = network_of(address)
        yield from ((limit, f"account:{trace}:{network}") for limit in self._per_account)
        yield from ((limit, f"address:{network}") for limit in self._per_address)

    def _shared(self) -> Valkey | None:
        return self._valkey if time.monotonic() >= self._valkey_from else None

    def _retreat(self) -> None:
        self._valkey_from = time.monotonic() + RETREAT_SECONDS


async def _wait_by_valkey(valkey: Valkey, limits: Sequence[Limit]) -> float:
    keys = [_counter(limit, key) for limit, key in limits]
    (counts,) = await valkey.run(("MGET", *keys))
    used_up = [
        key
        for (limit, _), key, count in zip(limits, keys, counts, strict=True)
        if int(count or 0) >= limit.amount
    ]
    # Most attempts are within the limits, and need only the one command.
    left = await valkey.run(*(("PTTL", key) for key in used_up)) if used_up else []
    return max((max(1.0, milliseconds / 1000) for milliseconds in left), default=0.0)


async def _count_in_valkey(valkey: Valkey, limits: Sequence[Limit]) -> None:
    keys = [(_counter(limit, key), limit.get_expiry()) for limit, key in limits]
    # A window begins with its first failure: NX leaves the end of one that has begun. The transaction is for a count
    # that would otherwise stay for good if Valkey got only half of the commands.
    counts = [("INCR", key) for key, _ in keys]
    ends = [("EXPIRE", key, seconds, "NX") for key, seconds in keys]
    await valkey.run(("MULTI",), *counts, *ends, ("EXEC",))


def _counter(limit: RateLimitItem, key: str) -> str:
    # A service's user in Valkey reaches only the keys that begin with its name.
    return f"identity:{limit.key_for('logins', key)}"
