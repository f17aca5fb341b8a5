"""Traces as staff reads them through the edge: waited for, since spans arrive a moment after what they tell of."""

import asyncio
import time
from typing import Any

import httpx

from tests.mesh import Mesh

Span = dict[str, Any]
# Spans leave a process once a second.
ARRIVAL_SECONDS = 20.0


class Trace:
    """A trace with its spans; a hop is a span as (service, kind, name)."""

    def __init__(self, body: dict[str, Any]) -> None:
        self.spans: list[Span] = body["spans"]
        self._by_id = {span["span_id"]: span for span in self.spans}

    @property
    def roots(self) -> list[Span]:
        """The spans whose parent is not in the trace."""
        return [span for span in self.spans if span["parent_span_id"] not in self._by_id]

    @property
    def hops(self) -> set[tuple[str, str, str]]:
        return {hop(span) for span in self.spans}

    def one(self, service: str, kind: str, name: str) -> Span:
        """The one span of such a hop."""
        (found,) = (span for span in self.spans if hop(span) == (service, kind, name))
        return found

    def parent(self, span: Span) -> Span:
        return self._by_id[span["parent_span_id"]]

    def way(self, span: Span) -> list[tuple[str, str, str]]:
        """The hops from the beginning of the trace to a span."""
        upwards = [hop(span)]
        while span["parent_span_id"]:
            span = self.parent(span)
            upwards.append(hop(span))
        return upwards[::-1]

    def statements_of(self, span: Span) -> list[str]:
        """The SQL right below a span, in its order."""
        return [
            child["attributes"]["db.query.text"]
            for child in self.spans
            if child["parent_span_id"] == span["span_id"] and "db.query.text" in child["attributes"]
        ]


class Traces:
    """The observer, read in the name of staff."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self._headers: dict[str, str] = {}

    async def get(self, path: str, **query: str | float) -> httpx.Response:
        """An answer to staff."""
        if not self._headers:
            self._headers = {"authorization": f"Bearer {await self._mesh.staff_token()}"}
        return await self._mesh.http.get(path, params=query, headers=self._headers)

    async def listed(self, **query: str | float) -> dict[str, Any]:
        """A page of traces."""
        answer = await self.get("/v1/observer/traces", **query)
        assert answer.status_code == 200, answer.text
        page: dict[str, Any] = answer.json()
        return page

    async def of(self, answer: httpx.Response, *hops: tuple[str, str, str]) -> Trace:
        """The trace of an answer, as soon as it holds these hops and the one that began it."""
        trace_id, deadline = answer.headers["trace-id"], time.monotonic() + ARRIVAL_SECONDS
        async for found in self._looks(trace_id):
            if set(hops) <= found.hops and [root["parent_span_id"] for root in found.roots] == [""]:
                return found
            assert time.monotonic() < deadline, f"of {hops} there are only {sorted(found.hops)}"
        raise AssertionError

    async def _looks(self, trace_id: str) -> Any:
        while True:
            answer = await self.get(f"/v1/observer/traces/{trace_id}")
            yield Trace(answer.json() if answer.status_code == 200 else {"spans": []})
            await asyncio.sleep(0.2)


def hop(span: Span) -> tuple[str, str, str]:
    return span["service"], span["kind"], span["name"]
