"""`meshctl trace`: what a request did, hop by hop."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from protomesh.observer.v1.observer_service_pb2 import GetTraceRequest, ListTracesRequest
from protomesh.observer.v1.observer_service_pb2_grpc import ObserverServiceStub
from protomesh.observer.v1.trace_pb2 import TraceSummary
from rich.console import Console
from rich.table import Table

from meshctl.failure import OperatorError
from meshctl.operate import Data
from meshctl.options import DEFAULT_FOLDER
from meshctl.session import CALL_SECONDS, EdgeSession
from meshctl.trace_tree import draw

if TYPE_CHECKING:
    from protomesh.observer.v1.observer_service_pb2_grpc import ObserverServiceAsyncStub

# Looking at traces makes traces, too; nobody who asks for the latest one means those.
_OWN = ("/v1/observer", "ObserverService", "LoginUser", "/v1/users/login", "jwks.json")
_LOOK_BACK = 100


def trace(
    trace_id: Annotated[str, typer.Argument(help="A trace id; the latest trace when not given.")] = "",
    search: Annotated[str, typer.Option(help="The latest trace whose name holds this text.")] = "",
    service: Annotated[str, typer.Option(help="The latest trace in which this service took part.")] = "",
    errors: Annotated[bool, typer.Option("--errors", help="The latest trace with an error.")] = False,
    list_: Annotated[bool, typer.Option("--list", help="List recent traces instead.")] = False,
    data: Data = DEFAULT_FOLDER,
) -> None:
    """Draw a trace as a tree, or list recent ones."""
    query = ListTracesRequest(search=search, service=service, only_errors=errors, limit=_LOOK_BACK)
    asyncio.run(_show(data, trace_id, query, listed=list_))


async def _show(data: Path, trace_id: str, query: ListTracesRequest, *, listed: bool) -> None:
    async with EdgeSession.of(data) as session:
        observer = ObserverServiceStub(session.channel)
        if listed:
            _console().print(_table(await _recent(session, observer, query)))
            return
        wanted = trace_id or _latest(await _recent(session, observer, query))
        request = GetTraceRequest(trace_id=wanted.lower())
        found = await session.call(
            lambda metadata: observer.GetTrace(request, timeout=CALL_SECONDS, metadata=metadata)
        )
        _console().print(draw(found))


async def _recent(
    session: EdgeSession, observer: "ObserverServiceAsyncStub", query: ListTracesRequest
) -> list[TraceSummary]:
    found = await session.call(
        lambda metadata: observer.ListTraces(query, timeout=CALL_SECONDS, metadata=metadata)
    )
    # Without a name, the span that began it has not arrived.
    return [trace for trace in found.data if trace.name and not any(own in trace.name for own in _OWN)]


def _console() -> Console:
    """As wide as the terminal; wide enough for every hop when the output goes elsewhere."""
    console = Console()
    return console if console.is_terminal else Console(width=200)


def _latest(traces: list[TraceSummary]) -> str:
    if not traces:
        raise OperatorError("No such trace is kept: send a request, and ask again a second later.")
    return traces[0].trace_id


def _table(traces: list[TraceSummary]) -> Table:
    table = Table("trace id", "began", "ms", "spans", "errors", "name", "services", box=None)
    table.columns[0].no_wrap = True
    for trace in traces:
        began = trace.started_at.ToDatetime().strftime("%H:%M:%S")
        counts = (str(trace.span_count), str(trace.error_count or ""))
        services = ", ".join(trace.services)
        table.add_row(trace.trace_id, began, f"{trace.duration_ms:.1f}", *counts, trace.name, services)
    return table
