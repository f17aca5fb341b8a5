"""The servicer of RateLimitService."""

from collections.abc import Iterable, Iterator

from google.protobuf.duration_pb2 import Duration
from protomesh.ratelimit.v3.ratelimit_pb2 import (
    HeaderValue,
    RateLimitDescriptor,
    RateLimitRequest,
    RateLimitResponse,
)

from chassis.rpc import Call
from services.ratelimit.counters import Count, Counters
from services.ratelimit.quotas import Quota, Quotas

OK, OVER_LIMIT = RateLimitResponse.OK, RateLimitResponse.OVER_LIMIT
PASS = RateLimitResponse.DescriptorStatus(code=OK)


class RateLimitService:
    """Tells the edges whether a request is within the quotas of its contract."""

    def __init__(self, quotas: Quotas, counters: Counters) -> None:
        self._quotas = quotas
        self._counters = counters

    async def ShouldRateLimit(self, request: RateLimitRequest, call: Call) -> RateLimitResponse:
        quotas = [self._quotas.find(descriptor) for descriptor in request.descriptors]
        limited = [(_name(d), quota) for d, quota in zip(request.descriptors, quotas, strict=True) if quota]
        if not limited:
            return RateLimitResponse(overall_code=OK, statuses=[PASS for _ in quotas])
        names = [(f"{request.domain} {name}", quota.seconds) for name, quota in limited]
        counted = await self._counters.add(request.hits_addend or 1, names)
        counts = iter(counted)
        statuses = [_status(quota, next(counts)) if quota else PASS for quota in quotas]
        return RateLimitResponse(
            overall_code=OVER_LIMIT if any(status.code == OVER_LIMIT for status in statuses) else OK,
            statuses=statuses,
            response_headers_to_add=_headers(zip((quota for _, quota in limited), counted, strict=True)),
        )


def _name(descriptor: RateLimitDescriptor) -> str:
    return " ".join(f"{entry.key}={entry.value}" for entry in descriptor.entries)


def _status(quota: Quota, count: Count) -> RateLimitResponse.DescriptorStatus:
    return RateLimitResponse.DescriptorStatus(
        code=OVER_LIMIT if count.requests > quota.requests else OK,
        current_limit=RateLimitResponse.RateLimit(requests_per_unit=quota.requests, unit=quota.unit),
        limit_remaining=max(0, quota.requests - count.requests),
        duration_until_reset=Duration(seconds=count.reset_seconds),
    )


def _headers(limited: Iterable[tuple[Quota, Count]]) -> Iterator[HeaderValue]:
    """The headers of the tightest quota that is announced or used up."""
    told = [
        (quota.requests - count.requests, quota, count)
        for quota, count in limited
        if quota.announced or count.requests > quota.requests
    ]
    if not told:
        return
    remaining, quota, count = min(told, key=lambda one: one[0])
    yield HeaderValue(key="ratelimit-limit", value=str(quota.requests))
    yield HeaderValue(key="ratelimit-remaining", value=str(max(0, remaining)))
    yield HeaderValue(key="ratelimit-reset", value=str(count.reset_seconds))
    if remaining < 0:
        yield HeaderValue(key="retry-after", value=str(count.reset_seconds))
