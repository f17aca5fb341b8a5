"""The metrics of all processes of a running mesh."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from prometheus_client.parser import text_string_to_metric_families

from meshctl.core import loopback


class Sample(NamedTuple):
    """A figure of a service's process."""

    service: str
    name: str
    labels: dict[str, str]
    value: float


def samples(states: list[dict[str, Any]]) -> list[Sample]:
    """Returns the figures of all services, from the states of `status`; a process that does not answer has none."""
    asked = [state for state in states if state["metrics_url"] and state["name"] != "edge"]
    with ThreadPoolExecutor(max_workers=max(1, len(asked))) as pool:
        return [sample for page in pool.map(_of, asked) for sample in page]


def _of(state: dict[str, Any]) -> list[Sample]:
    service = state["name"].rstrip("-0123456789").removesuffix("-worker")
    return list(_parsed(service, loopback.page(state["metrics_url"])))


def _parsed(service: str, page: str) -> Iterator[Sample]:
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            yield Sample(service, sample.name, dict(sample.labels), sample.value)
