"""The quotas that contracts declare, by the descriptor that the edge sends for each quota."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Self

from protomesh.options.v1 import options_pb2
from protomesh.ratelimit.v3.ratelimit_pb2 import RateLimitDescriptor, RateLimitResponse

from chassis import contract
from chassis.contract import MethodContract

# The names that the edge's routes give the parts of a descriptor: meshctl.build.gen.envoy_routes.
METHOD, ADDRESS, CALLER = "method", "masked_remote_address", "caller"
_UNITS = {
    options_pb2.Quota.second: (1, RateLimitResponse.RateLimit.SECOND),
    options_pb2.Quota.minute: (60, RateLimitResponse.RateLimit.MINUTE),
    options_pb2.Quota.hour: (3600, RateLimitResponse.RateLimit.HOUR),
}


@dataclass(frozen=True, slots=True)
class Quota:
    """`requests` in each window of `seconds`. `announced`: whether response headers report it before it is used up."""

    requests: int
    seconds: int
    unit: "RateLimitResponse.RateLimit.Unit.ValueType"
    announced: bool


class Quotas:
    """Looks quotas up by descriptor."""

    def __init__(self, quotas: Mapping[tuple[str, str], Quota]) -> None:
        self._quotas = quotas

    @classmethod
    def of_contracts(cls, multiplier: int = 1) -> Self:
        """The quotas of every RPC, each `multiplier` times as large."""
        return cls(dict(_declared(contract.platform(), multiplier)))

    def find(self, descriptor: RateLimitDescriptor) -> Quota | None:
        """The quota of a descriptor such as (method, caller); None when no contract has one."""
        if [entry.key for entry in descriptor.entries[:1]] != [METHOD] or len(descriptor.entries) != 2:
            return None
        return self._quotas.get((descriptor.entries[0].value, descriptor.entries[1].key))


def _declared(methods: Iterable[MethodContract], multiplier: int) -> Iterator[tuple[tuple[str, str], Quota]]:
    for method in methods:
        limit = method.rate_limit
        if limit is None:
            continue
        for_callers = limit.HasField("per_caller")
        if for_callers:
            yield (method.path, CALLER), _quota(limit.per_caller, multiplier, announced=True)
        if limit.HasField("per_address"):
            # A response has room for one set of headers: those of the caller's own quota, if there is one.
            yield (method.path, ADDRESS), _quota(limit.per_address, multiplier, announced=not for_callers)


def _quota(quota: options_pb2.Quota, multiplier: int, *, announced: bool) -> Quota:
    seconds, unit = _UNITS[quota.per]
    return Quota(quota.requests * multiplier, seconds, unit, announced)
