"""What each RPC did between two looks at the metrics."""

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from meshctl.inspect.scrape import Sample

Key = tuple[str, str, str]


@dataclass
class Counts:
    """The counts of one RPC since its processes started; buckets are by their upper bound in seconds."""

    ended: float = 0.0
    failed: float = 0.0
    in_flight: float = 0.0
    buckets: dict[float, float] = field(default_factory=lambda: defaultdict(float))


@dataclass(frozen=True)
class Rate:
    """An RPC in an interval: calls a second, the share that failed, percentiles in ms (None without calls)."""

    service: str
    rpc: str
    rate: float
    errors: float
    p50: float | None
    p95: float | None
    in_flight: int


def counts(samples: Iterable[Sample]) -> dict[Key, Counts]:
    """Returns the counts of each RPC, over all workers of its service."""
    found: dict[Key, Counts] = defaultdict(Counts)
    for service, name, labels, value in samples:
        if "grpc_method" not in labels or not name.startswith("grpc_server_"):
            continue
        rpc = found[service, labels["grpc_service"], labels["grpc_method"]]
        match name.removeprefix("grpc_server_"):
            case "handled_total":
                rpc.ended += value
                rpc.failed += value if labels["grpc_code"] != "OK" else 0.0
            case "handling_seconds_bucket":
                rpc.buckets[float(labels["le"])] += value
            case "in_flight":
                rpc.in_flight += value
    return found


def rates(before: dict[Key, Counts], after: dict[Key, Counts], seconds: float) -> list[Rate]:
    """Returns the RPCs that were called or are running, the busiest first."""
    found = [_rate(key, before.get(key, Counts()), now, seconds) for key, now in after.items()]
    return sorted((one for one in found if one.rate or one.in_flight), key=lambda one: (-one.rate, one.rpc))


def _rate(key: Key, before: Counts, now: Counts, seconds: float) -> Rate:
    # Counts that fell are those of a process that started in between.
    if now.ended < before.ended:
        before = Counts()
    ended, failed = now.ended - before.ended, max(0.0, now.failed - before.failed)
    buckets = {
        bound: max(0.0, count - before.buckets.get(bound, 0.0)) for bound, count in now.buckets.items()
    }
    service, full_name, method = key
    return Rate(
        service,
        f"{full_name.rpartition('.')[2]}/{method}",
        ended / seconds,
        failed / ended if ended else 0.0,
        percentile(buckets, 0.5),
        percentile(buckets, 0.95),
        int(now.in_flight),
    )


def percentile(buckets: dict[float, float], share: float) -> float | None:
    """Returns a percentile in ms, interpolated within its bucket, as histogram_quantile of Prometheus does."""
    bounds = sorted(buckets)
    if not bounds or not buckets[bounds[-1]]:
        return None
    wanted = share * buckets[bounds[-1]]
    lower, below = 0.0, 0.0
    for bound in bounds:
        if buckets[bound] >= wanted:
            if math.isinf(bound):
                return lower * 1000
            return (lower + (bound - lower) * (wanted - below) / (buckets[bound] - below)) * 1000
        lower, below = bound, buckets[bound]
    raise AssertionError
