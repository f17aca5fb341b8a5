"""Checks of a running mesh: its processes, its edge, its clocks, its events."""

import http.client
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import psycopg

from meshctl.core.folder import MeshFolder
from meshctl.inspect.finding import Finding, judged
from meshctl.inspect.scrape import Sample, samples
from meshctl.mesh import control
from meshctl.mesh.program import LATE_EVENT_SECONDS

# As the alert of docs/observing.md has it.
CONSUMER_EVENTS = 1000
# Leases, tokens and deadlines allow for a little.
CLOCK_SECONDS = 1.0


def findings(folder: MeshFolder, states: list[dict[str, Any]]) -> Iterator[Finding]:
    """Checks a mesh by the states of its processes; without any, none runs."""
    if not states:
        yield judged("mesh", f"none runs on {folder.root}", warning="start it with ./scripts/up")
        return
    wiring = control.ask(folder.control, {"command": "wiring"})
    yield from _processes(states)
    yield _edge(wiring["edge_url"])
    yield _clock(wiring["postgres_url"])
    yield from _events(samples(states))


def _processes(states: list[dict[str, Any]]) -> Iterator[Finding]:
    sick = [state for state in states if not state["healthy"]]
    for state in sick:
        name = state["name"]
        advice = f"see `meshctl logs {name}`; it is restarted when it ends or hangs"
        yield judged(name, state.get("complaint") or "not healthy", problem=advice)
    if not sick:
        yield judged("processes", f"all {len(states)} are healthy")
    for state in states:
        if state["restarts"]:
            advice = f"see why with `meshctl logs {state['name']}`"
            yield judged(state["name"], f"ended {state['restarts']} times since `up`", warning=advice)


def _edge(url: str) -> Finding:
    address, began = urlsplit(url), time.monotonic()
    connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=5)
    try:
        connection.request("GET", "/v1/products?limit=1")
        status = connection.getresponse().status
    except OSError as failure:
        return judged("edge", f"{url} does not answer: {failure}", problem="see `meshctl logs edge`")
    finally:
        connection.close()
    found = f"{url} answers {status} in {(time.monotonic() - began) * 1000:.0f} ms"
    return judged("edge", found, problem="see `meshctl trace --errors`" if status >= 500 else "")


def _clock(postgres_url: str) -> Finding:
    try:
        with psycopg.connect(postgres_url, connect_timeout=5) as connection:
            row = connection.execute("SELECT extract(epoch FROM clock_timestamp())::float8").fetchone()
    except psycopg.Error as failure:
        return judged("PostgreSQL", str(failure).splitlines()[0], problem="see `meshctl logs postgres`")
    assert row is not None
    apart = abs(row[0] - time.time())
    advice = "set the clocks of both machines, by NTP" if apart > CLOCK_SECONDS else ""
    return judged(
        "clocks", f"PostgreSQL's and this machine's are {apart * 1000:.0f} ms apart", problem=advice
    )


def _events(found: list[Sample]) -> Iterator[Finding]:
    def highest(name: str, label: str) -> tuple[float, str]:
        return max(((one.value, one.labels[label]) for one in found if one.name == name), default=(0.0, ""))

    seconds, database = highest("outbox_lag_seconds", "database")
    advice = f"events of {database} are not sent: see `meshctl logs {database}` and `meshctl logs nats`"
    late = seconds > LATE_EVENT_SECONDS
    yield judged("outbox", f"the oldest unsent event is {seconds:.0f} s old", problem=advice if late else "")
    events, consumer = highest("consumer_lag_events", "consumer")
    advice = f"{consumer} falls behind: see `meshctl logs {consumer.partition('.')[0]}`"
    yield judged(
        "consumers", f"at most {events:.0f} events behind", warning=advice if events > CONSUMER_EVENTS else ""
    )
    dead = sum(
        one.value
        for one in found
        if one.name == "consumer_events_total" and one.labels.get("outcome") == "dead"
    )
    yield judged(
        "dead letters",
        f"{dead:.0f} since the services started",
        warning="see `meshctl events list`" if dead else "",
    )
