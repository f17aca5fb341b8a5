"""CPU time by process: on a shared machine rates are noisy, but the CPU time of a request is not."""

import statistics
from collections.abc import Mapping, Sequence

import psutil

# Leaves out what background work uses meanwhile.
_LEAST_US = 5.0


def spent(processes: Mapping[str, int]) -> dict[str, float]:
    """Returns the CPU seconds that each named process has used, with its children, including those that have ended."""
    return {name: _family(pid) for name, pid in processes.items()}


def per_request(before: Mapping[str, float], after: Mapping[str, float], requests: int) -> dict[str, float]:
    """Returns microseconds per request by kind of process: `catalog-1` and `catalog-2` count as `catalog`."""
    kinds: dict[str, float] = {}
    for name, seconds in after.items():
        kind = name.rstrip("0123456789").rstrip("-")
        kinds[kind] = kinds.get(kind, 0.0) + (seconds - before[name]) / max(1, requests) * 1e6
    return kinds


def median(rounds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Returns the median over rounds for each kind of process."""
    kinds = sorted(set().union(*rounds))
    found = {kind: statistics.median(each.get(kind, 0.0) for each in rounds) for kind in kinds}
    return {kind: round(used, 1) for kind, used in found.items() if used >= _LEAST_US}


def _family(pid: int) -> float:
    root = psutil.Process(pid)
    total = 0.0
    for process in (root, *root.children(recursive=True)):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue  # its parent has counted it by then
        total += times.user + times.system + times.children_user + times.children_system
    return total
