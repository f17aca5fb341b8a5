"""`python -m bench`: measures the chassis and the edge against named peers, in one run on this machine."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
import uvloop
from rich.console import Console

from bench import echo, events, mesh, shop
from bench.report import RESULTS, Figure, Report

PARTS = ("echo", "shop", "events")


def main(
    parts: Annotated[
        list[str] | None, typer.Argument(help=f"Which of {', '.join(PARTS)}; all unless named.")
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.5, help="Seconds of each round.")] = 5.0,
    save: Annotated[Path | None, typer.Option(help="Where the figures go as JSON.")] = None,
) -> None:
    """Measures, prints ratios, and saves the figures."""
    wanted = parts or list(PARTS)
    report, console = Report(), Console(width=160)
    if "echo" in wanted:
        console.print("Echo: bare grpc.aio against the chassis with everything on")
        _echo(report, seconds)
    if "shop" in wanted:
        console.print("Shop: the edge against FastAPI, on the same tables")
        with mesh.running(shop.WORKERS) as running:
            uvloop.run(shop.measure(running, report, seconds))
    if "events" in wanted:
        console.print("Events: outbox → JetStream → inbox against JetStream alone")
        uvloop.run(events.measure(report))
    report.show(console)
    path = save or RESULTS / f"{datetime.now(UTC):%Y-%m-%dT%H%M%S}.json"
    report.save(path)
    console.print(f"Saved as {path}")


def _echo(report: Report, seconds: float) -> None:
    # Short rounds in turn: as many as it takes for a steady median.
    found = echo.compare(rounds=max(5, round(seconds * 4)), seconds=0.5)
    bare = report.add(Figure("echo: bare grpc.aio, plain text", found["bare_per_second"]))
    mtls = report.add(Figure("echo: bare grpc.aio, mTLS", found["bare_mtls_per_second"]), peer=bare)
    tuned = report.add(
        Figure("echo: bare grpc.aio, mTLS, set up likewise", found["bare_tuned_per_second"]), peer=bare
    )
    everything = found["chassis_per_second"]
    for peer in (bare, mtls, tuned):
        report.add(Figure("echo: chassis, everything on", everything), peer=peer)


if __name__ == "__main__":
    typer.run(main)
