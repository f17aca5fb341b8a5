"""The servicer of ObserverService."""

from collections.abc import Iterable
from itertools import islice

from protomesh.observer.v1.observer_service_pb2 import GetTraceRequest, ListTracesRequest, ListTracesResponse
from protomesh.observer.v1.trace_pb2 import Trace
from protomesh.type.v1.page_pb2 import PageMeta

from chassis.core import NotFound
from chassis.data import cursor as cursors
from chassis.data import window
from chassis.rpc import Call
from services.observer import convert
from services.observer.store import StoredTrace, TraceStore


class ObserverService:
    """The recent traces, for staff."""

    def __init__(self, store: TraceStore, cursor_secret: str) -> None:
        self._store = store
        self._cursor_secret = cursor_secret.encode()

    async def ListTraces(self, request: ListTracesRequest, call: Call) -> ListTracesResponse:
        await self._store.catch_up()
        limit, offset = window(request)
        matching = [trace for trace in self._store.newest_first() if _matches(trace, request)]
        # Traces arrive in a different order than they began, since each process sends its spans in its own batches.
        matching.sort(key=_began, reverse=True)
        rest = self._behind(request, matching) if request.cursor else matching[offset:]
        page = list(islice(rest, limit + 1))
        more, page = len(page) > limit, page[:limit]
        meta = PageMeta(
            total=len(matching),
            page=0 if request.cursor else request.page or 1,
            limit=limit,
            next_cursor=self._cursor(request, page[-1]) if more else "",
        )
        return ListTracesResponse(data=map(convert.summary, page), meta=meta)

    async def GetTrace(self, request: GetTraceRequest, call: Call) -> Trace:
        await self._store.catch_up()
        trace = self._store.get(request.trace_id)
        if trace is None:
            raise NotFound("TRACE_NOT_FOUND", "The trace does not exist or is no longer kept.")
        return convert.trace_message(trace)

    def _cursor(self, request: ListTracesRequest, last: StoredTrace) -> str:
        return cursors.sign(list(_began(last)), _scope(request), self._cursor_secret)

    def _behind(self, request: ListTracesRequest, traces: Iterable[StoredTrace]) -> Iterable[StoredTrace]:
        began, sequence = cursors.verify(request.cursor, _scope(request), self._cursor_secret)
        return (trace for trace in traces if _began(trace) < (began, sequence))


def _began(trace: StoredTrace) -> tuple[int, int]:
    return trace.started_ns, trace.sequence


def _matches(trace: StoredTrace, request: ListTracesRequest) -> bool:
    return (
        (not request.service or request.service in trace.services)
        and (not request.search or request.search.lower() in trace.name.lower())
        and trace.duration_ms >= request.min_duration_ms
        and (not request.only_errors or trace.errors > 0)
    )


def _scope(request: ListTracesRequest) -> bytes:
    """The scope that a cursor is valid for: this list with these filters."""
    filters = ListTracesRequest()
    filters.CopyFrom(request)
    for paging in ("page", "limit", "cursor"):
        filters.ClearField(paging)
    return b"observer.traces " + filters.SerializeToString(deterministic=True)
