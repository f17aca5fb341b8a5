"""`meshctl audit`: who did what, from the audit records of all services."""

import asyncio
import json
import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer
from rich.table import Table

from chassis.data import audit_records
from meshctl.core.arguments import Data
from meshctl.core.failure import OperatorError
from meshctl.core.folder import DEFAULT_FOLDER
from meshctl.core.terminal import console
from meshctl.mesh.running import RunningMesh

_UNITS = {"m": "minutes", "h": "hours", "d": "days"}


def audit(
    principal: Annotated[
        str, typer.Option(help="Only actions of this user (an id) or of workload:NAME, failed attempts too.")
    ] = "",
    rpc: Annotated[str, typer.Option(help="Only RPCs whose full name contains this text.")] = "",
    service: Annotated[str, typer.Option(help="Only records of this service.")] = "",
    since: Annotated[str, typer.Option(help="How far back: 30m, 24h or 7d.")] = "24h",
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Records at the most.")] = 100,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line, with all fields.")] = False,
    data: Data = DEFAULT_FOLDER,
) -> None:
    """Show who did what, the newest records first."""
    urls = RunningMesh.on(data).database_urls
    if service and service not in urls:
        raise OperatorError(f"{service} has no database; these have one: {', '.join(sorted(urls))}.")
    asked = {name: url for name, url in urls.items() if service in ("", name)}
    if principal and ":" not in principal:
        principal = f"user:{principal}"
    filters = {"since": _moment(since), "principal": principal, "method": rpc, "limit": limit}
    found = asyncio.run(_read(asked, filters))[:limit]
    if as_json:
        for name, record in found:
            print(json.dumps({"service": name, **record._asdict()}, default=str, ensure_ascii=False))
    else:
        console().print(_table(found) if found else "There are no such records.")


def _moment(ago: str) -> datetime:
    parsed = re.fullmatch(r"(\d{1,5})([mhd])", ago)
    if parsed is None:
        raise OperatorError(f"{ago!r} is not a duration: write 30m, 24h or 7d.")
    return datetime.now(UTC) - timedelta(**{_UNITS[parsed[2]]: int(parsed[1])})


async def _read(urls: dict[str, str], filters: dict[str, Any]) -> list[tuple[str, Any]]:
    """The records of several services, the newest first."""
    pages = await asyncio.gather(*(audit_records.listed(url, **filters) for url in urls.values()))
    found = [(name, record) for name, page in zip(urls, pages, strict=True) for record in page]
    return sorted(found, key=lambda pair: pair[1].occurred_at, reverse=True)


def _table(found: list[tuple[str, Any]]) -> Table:
    table = Table("when", "who", "RPC", "of", "outcome", "from", "trace", box=None)
    for _, record in found:
        table.add_row(
            f"{record.occurred_at:%Y-%m-%d %H:%M:%S}",
            record.principal,
            record.method.removeprefix("protomesh."),
            json.dumps(record.request)[1:-1].replace('"', ""),
            f"{record.outcome} {record.reason}".strip(),
            record.address or record.workload,
            record.trace_id,
        )
    return table
