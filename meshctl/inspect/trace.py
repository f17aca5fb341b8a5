"""`meshctl trace`: what a request did, hop by hop."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from google.protobuf import json_format
from google.protobuf.message import Message
from protomesh.observer.v1.observer_service_pb2 import GetTraceRequest, ListTracesRequest
from protomesh.observer.v1.observer_service_pb2_grpc import ObserverServiceStub
from protomesh.observer.v1.trace_pb2 import TraceSummary
from rich.table import Table

from meshctl.core.arguments import AsJson, Data
from meshctl.core.failure import OperatorError
from meshctl.core.folder import DEFAULT_FOLDER
from meshctl.core.terminal import console, print_json
from meshctl.inspect.trace_tree import draw
from meshctl.mesh.session import CALL_SECONDS, OperatorSession

if TYPE_CHECKING:
    from protomesh.observer.v1.observer_service_pb2_grpc import ObserverServiceAsyncStub

_LOOK_BACK = 100


def trace(
    trace_id: Annotated[str, typer.Argument(help="A trace id; the latest trace when not given.")] = "",
    search: Annotated[str, typer.Option(help="The latest trace whose name contains this text.")] = "",
    service: Annotated[str, typer.Option(help="The latest trace in which this service took part.")] = "",
    errors: Annotated[bool, typer.Option("--errors", help="The latest trace with an error.")] = False,
    list_: Annotated[bool, typer.Option("--list", help="List recent traces instead.")] = False,
    as_json: AsJson = False,
    data: Data = DEFAULT_FOLDER,
) -> None:
    """Draw a trace as a tree, or list recent ones."""
    query = ListTracesRequest(search=search, service=service, only_errors=errors, limit=_LOOK_BACK)
    asyncio.run(_show(data, trace_id, query, listed=list_, as_json=as_json))


async def _show(data: Path, trace_id: str, query: ListTracesRequest, *, listed: bool, as_json: bool) -> None:
    async with OperatorSession.of(data) as session:
        observer = ObserverServiceStub(session.channel)
        if listed:
            recent = await _recent(session, observer, query)
            print_json([_as_data(one) for one in recent]) if as_json else console().print(_table(recent))
            return
        wanted = trace_id or _latest(await _recent(session, observer, query))
        request = GetTraceRequest(trace_id=wanted.lower())
        found = await session.call(
            lambda metadata: observer.GetTrace(request, timeout=CALL_SECONDS, metadata=metadata)
        )
        print_json(_as_data(found)) if as_json else console().print(draw(found))


def _as_data(message: Message) -> dict[str, Any]:
    """Returns a message as REST shows it."""
    shown: dict[str, Any] = json_format.MessageToDict(message, preserving_proto_field_name=True)
    return shown


async def _recent(
    session: OperatorSession, observer: "ObserverServiceAsyncStub", query: ListTracesRequest
) -> list[TraceSummary]:
    found = await session.call(
        lambda metadata: observer.ListTraces(query, timeout=CALL_SECONDS, metadata=metadata)
    )
    # A trace without a name: its root span has not arrived.
    return [trace for trace in found.data if trace.name]


def _latest(traces: list[TraceSummary]) -> str:
    if not traces:
        raise OperatorError("No such trace is kept: send a request, and try again a second later.")
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
