"""The rate limiter against a real Valkey; only the clock is of the test's making."""

import asyncio
import secrets
from collections.abc import AsyncIterator

import pytest
from protomesh.ratelimit.v3.ratelimit_pb2 import RateLimitDescriptor, RateLimitRequest, RateLimitResponse

from chassis import contract
from chassis.core import Unavailable
from chassis.rpc import Call
from services.ratelimit.counters import Counters
from services.ratelimit.quotas import ADDRESS, CALLER, METHOD, Quota, Quotas
from services.ratelimit.ratelimit_service import RateLimitService

PLACE = "/protomesh.ordering.v1.OrderService/PlaceOrder"
CALL = Call(contract.method_at("/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit"), {})
MINUTE = RateLimitResponse.RateLimit.MINUTE
OK, OVER_LIMIT = RateLimitResponse.OK, RateLimitResponse.OVER_LIMIT


class Clock:
    """A clock that stands until a test moves it."""

    def __init__(self) -> None:
        # Whole minutes, and of this test alone: the counters in Valkey outlive it.
        self.seconds = 60.0 * secrets.randbelow(10**9)

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def limiter(valkey_url: str, clock: Clock) -> AsyncIterator[RateLimitService]:
    counters = Counters(valkey_url, clock)
    quotas = {(PLACE, CALLER): Quota(3, 60, MINUTE, True), (PLACE, ADDRESS): Quota(2, 60, MINUTE, False)}
    yield RateLimitService(Quotas(quotas), counters)
    await counters.close()


def asks(kind: str, value: str, hits: int = 0, path: str = PLACE) -> RateLimitRequest:
    entry = RateLimitDescriptor.Entry
    descriptor = RateLimitDescriptor(entries=[entry(key=METHOD, value=path), entry(key=kind, value=value)])
    return RateLimitRequest(domain="protomesh", descriptors=[descriptor], hits_addend=hits)


async def codes(limiter: RateLimitService, request: RateLimitRequest, times: int) -> list[int]:
    return [(await limiter.ShouldRateLimit(request, CALL)).overall_code for _ in range(times)]


def headers(response: RateLimitResponse) -> dict[str, str]:
    return {header.key: header.value for header in response.response_headers_to_add}


async def test_requests_pass_until_the_quota_is_used_up(limiter: RateLimitService) -> None:
    assert await codes(limiter, asks(CALLER, "anna"), 5) == [OK, OK, OK, OVER_LIMIT, OVER_LIMIT]


async def test_each_caller_has_a_quota_of_their_own(limiter: RateLimitService) -> None:
    await codes(limiter, asks(CALLER, "anna"), 4)
    assert await codes(limiter, asks(CALLER, "bert"), 1) == [OK]


async def test_a_new_window_begins_afresh(limiter: RateLimitService, clock: Clock) -> None:
    await codes(limiter, asks(CALLER, "anna"), 4)
    clock.seconds += 59.9
    assert await codes(limiter, asks(CALLER, "anna"), 1) == [OVER_LIMIT]
    clock.seconds += 0.2
    assert await codes(limiter, asks(CALLER, "anna"), 1) == [OK]


async def test_headers_say_what_remains_and_when_it_is_full_again(
    limiter: RateLimitService, clock: Clock
) -> None:
    clock.seconds += 45.5
    response = await limiter.ShouldRateLimit(asks(CALLER, "anna"), CALL)
    expected = {"ratelimit-limit": "3", "ratelimit-remaining": "2", "ratelimit-reset": "15"}
    assert headers(response) == expected
    await codes(limiter, asks(CALLER, "anna"), 2)
    refused = await limiter.ShouldRateLimit(asks(CALLER, "anna"), CALL)
    assert headers(refused)["ratelimit-remaining"] == "0"
    assert headers(refused)["retry-after"] == "15"


async def test_an_address_is_told_of_its_quota_only_when_that_is_used_up(limiter: RateLimitService) -> None:
    assert headers(await limiter.ShouldRateLimit(asks(ADDRESS, "203.0.113.7"), CALL)) == {}
    await codes(limiter, asks(ADDRESS, "203.0.113.7"), 1)
    assert "retry-after" in headers(await limiter.ShouldRateLimit(asks(ADDRESS, "203.0.113.7"), CALL))


async def test_a_heavy_request_counts_as_many(limiter: RateLimitService) -> None:
    assert await codes(limiter, asks(CALLER, "anna", hits=3), 2) == [OK, OVER_LIMIT]


async def test_what_no_contract_limits_passes(limiter: RateLimitService) -> None:
    for request in (asks("subnet", "anything"), RateLimitRequest(domain="protomesh")):
        assert await codes(limiter, request, 10) == [OK] * 10


async def test_the_quotas_are_those_of_the_contracts() -> None:
    doubled = Quotas.of_contracts(2)
    for method in contract.platform():
        limit = method.rate_limit
        callers = limit.per_caller.requests if limit and limit.HasField("per_caller") else None
        addresses = limit.per_address.requests if limit and limit.HasField("per_address") else None
        for kind, declared in ((CALLER, callers), (ADDRESS, addresses)):
            found = doubled.find(asks(kind, "someone", path=method.path).descriptors[0])
            assert (found and found.requests) == (declared and declared * 2), method.path


async def test_without_valkey_it_says_so_in_time() -> None:
    counters = Counters("valkey://127.0.0.1:1")
    quotas = Quotas({(PLACE, CALLER): Quota(3, 60, MINUTE, True)})
    with pytest.raises(Unavailable) as refused:
        await RateLimitService(quotas, counters).ShouldRateLimit(asks(CALLER, "anna"), CALL)
    assert refused.value.reason == "DEPENDENCY_UNAVAILABLE"
    await counters.close()


async def test_of_concurrent_requests_at_several_replicas_exactly_the_quota_passes(
    valkey_url: str, clock: Clock
) -> None:
    quotas = Quotas({(PLACE, CALLER): Quota(50, 60, MINUTE, True)})
    replicas = [Counters(valkey_url, clock) for _ in range(2)]
    limiters = [RateLimitService(quotas, counters) for counters in replicas]
    asked = (codes(limiter, asks(CALLER, "anna"), 1) for limiter in limiters * 60)
    verdicts = [code for (code,) in await asyncio.gather(*asked)]
    assert (verdicts.count(OK), verdicts.count(OVER_LIMIT)) == (50, 70)
    for counters in replicas:
        await counters.close()
