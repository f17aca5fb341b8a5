"""`python -m bench`: measures the chassis and the edge against named peers, in one run on this machine."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
import uvloop
from rich.console import Console

from bench import catalog, echo, events, mesh, shop
from bench.goals import BARE_ECHO, ECHO
from bench.peers import running
from bench.report import RESULTS, Figure, Report

PARTS = ("echo", "shop", "catalog", "events")


def main(
    parts: Annotated[
        list[str] | None, typer.Argument(help=f"Which of {', '.join(PARTS)}; all unless named.")
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.5, help="Seconds of each round.")] = 3.0,
    save: Annotated[Path | None, typer.Option(help="Where the figures go as JSON.")] = None,
) -> None:
    """Measures, prints ratios, and saves the figures."""
    wanted = parts or list(PARTS)
    report, console = Report(), Console(width=160)
    try:
        _measure(wanted, report, console, seconds)
    finally:
        # What was measured is reported even when a part failed.
        report.show(console)
        path = save or RESULTS / f"{datetime.now(UTC):%Y-%m-%dT%H%M%S}.json"
        report.save(path)
        console.print(f"Saved as {path}")


def _measure(wanted: list[str], report: Report, console: Console, seconds: float) -> None:
    if "echo" in wanted:
        console.print("Echo: bare grpc.aio against the chassis with everything on")
        _echo(report, seconds)
    if "events" in wanted:
        console.print("Events: outbox → JetStream → inbox against JetStream alone")
        uvloop.run(events.measure(report))
    if "shop" in wanted or "catalog" in wanted:
        with mesh.running(running.WORKERS) as target:
            if "shop" in wanted:
                console.print("Shop: the edge against FastAPI and Fastify, on the same tables")
                uvloop.run(shop.measure(target, report, console, seconds))
            if "catalog" in wanted:
                console.print("Catalog: an import through the edge, and a search that matches much")
                uvloop.run(catalog.measure(target, report))


def _echo(report: Report, seconds: float) -> None:
    # Short alternating rounds: as many as a steady median takes.
    found = echo.compare(rounds=max(5, round(seconds * 6)), seconds=0.5)
    sides = {
        "bare": BARE_ECHO,
        "bare_mtls": "echo: bare grpc.aio, mTLS",
        "bare_tuned": "echo: bare grpc.aio, mTLS, set up likewise",
    }
    for side, name in sides.items():
        report.add(Figure(name, found[f"{side}_per_second"]))
    ratios = {
        sides["bare"]: found["ratio"],
        sides["bare_mtls"]: found["ratio_to_mtls"],
        sides["bare_tuned"]: found["ratio_to_tuned"],
    }
    report.add(Figure(ECHO, found["chassis_per_second"]), against=ratios)


if __name__ == "__main__":
    typer.run(main)
