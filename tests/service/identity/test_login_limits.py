"""Failed logins on a real Valkey, and on none."""

import secrets
import statistics
import time

import pytest

from chassis.core import ResourceExhausted
from services.identity.hashing import HashingPool
from services.identity.login_limits import LoginLimits
from services.identity.passwords import Passwords

PER_ACCOUNT, PER_ADDRESS = "5/minute; 8/10 minutes", "20/minute"
ADDRESS = "203.0.113.7"
# Nothing listens on the discard port.
NO_VALKEY = "redis://127.0.0.1:9/0"


def replica(valkey_url: str) -> LoginLimits:
    return LoginLimits(valkey_url, PER_ACCOUNT, PER_ADDRESS)


def somebody() -> str:
    return f"{secrets.token_hex(8)}@example.org"


async def fail(limits: LoginLimits, account: str, times: int, address: str = ADDRESS) -> None:
    for _ in range(times):
        await limits.count_failure(account, address)


async def wait_of(limits: LoginLimits, account: str, address: str = ADDRESS) -> float:
    """Seconds to wait; 0 when an attempt is admitted."""
    try:
        await limits.admit(account, address)
    except ResourceExhausted as refusal:
        return refusal.retry_after or 0.0
    return 0.0


async def test_replicas_count_together(valkey_url: str) -> None:
    account, address = somebody(), secrets.token_hex(4)
    one, two = replica(valkey_url), replica(valkey_url)
    await fail(one, account, 3, address)
    assert await wait_of(two, account, address) == 0
    await fail(two, account, 2, address)
    assert 1 <= await wait_of(one, account, address) <= 60


async def test_the_owner_of_an_account_comes_from_another_address(valkey_url: str) -> None:
    limits, account = replica(valkey_url), somebody()
    await fail(limits, account, 5, "198.51.100.1")
    assert await wait_of(limits, account, "198.51.100.1")
    assert await wait_of(limits, account, "198.51.100.2") == 0


async def test_the_wait_grows_with_the_failures(valkey_url: str) -> None:
    limits, account, address = replica(valkey_url), somebody(), secrets.token_hex(4)
    await fail(limits, account, 5, address)
    first = await wait_of(limits, account, address)
    await fail(limits, account, 3, address)
    assert first <= 60 < await wait_of(limits, account, address) <= 600


async def test_an_address_is_limited_over_all_accounts(valkey_url: str) -> None:
    limits, address = replica(valkey_url), secrets.token_hex(4)
    for _ in range(20):
        await fail(limits, somebody(), 1, address)
    assert await wait_of(limits, somebody(), address)


async def test_an_ipv6_network_is_one_address(valkey_url: str) -> None:
    limits, account, network = replica(valkey_url), somebody(), f"2001:db8:{secrets.token_hex(2)}:1"
    for host in range(5):
        await fail(limits, account, 1, f"{network}::{host}")
    assert await wait_of(limits, account, f"{network}::ffff")
    assert await wait_of(limits, account, "2001:db8:0:2::1") == 0


async def test_without_valkey_a_process_counts_by_itself() -> None:
    limits, account = replica(NO_VALKEY), somebody()
    assert await wait_of(limits, account) == 0
    await fail(limits, account, 5)
    assert await wait_of(limits, account)


async def test_an_unknown_account_costs_the_time_of_a_wrong_password() -> None:
    passwords = Passwords(HashingPool(1, 8), LoginLimits("", "1000/minute", "1000/minute"))
    known = await passwords.hash("the right one", address=ADDRESS)

    async def cost(password_hash: str | None) -> float:
        began = time.perf_counter()
        assert not await passwords.check("a wrong one", password_hash, account=somebody(), address=ADDRESS)
        return time.perf_counter() - began

    wrong = statistics.median([await cost(known) for _ in range(7)])
    unknown = statistics.median([await cost(None) for _ in range(7)])
    assert unknown == pytest.approx(wrong, rel=0.5)
