"""The servicer of ObserverService."""

from __future__ import annotations

from itertools import islice

from protomesh.observer.v1.observer_service_pb2 import GetTraceRequest, ListTracesRequest, ListTracesResponse
from protomesh.observer.v1.trace_pb2 import Trace

from chassis.call import Call
from chassis.errors import NotFound
from services.observer import convert
from services.observer.store import StoredTrace, TraceStore


class ObserverService:
    def __init__(self, store: TraceStore) -> None:
        self._store = store

    async def ListTraces(self, request: ListTracesRequest, call: Call) -> ListTracesResponse:
        ...

    async def GetTrace(self, request: GetTraceRequest, call: Call) -> Trace:
        trace = self._store.get(request.trace_id)
        if trace is None:
            raise NotFound("TRACE_NOT_FOUND", "No such trace, or it is no longer kept.")
        return convert.trace_message(trace)
