"""Figures of one run: a table for people, JSON for the record."""

import json
import os
import platform
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results"


@dataclass
class Figure:
    """One measurement, and the peer of the same run that it is compared with."""

    name: str
    per_second: float
    unit: str = "requests/s"
    p50_ms: float | None = None
    p99_ms: float | None = None
    errors: int = 0
    peer: str = ""
    ratio: float | None = None
    note: str = ""


@dataclass
class Report:
    """All figures of one run on one machine."""

    figures: list[Figure] = field(default_factory=list)

    def add(self, figure: Figure, *, peer: Figure | None = None) -> Figure:
        """Takes a figure; with `peer`, its ratio to that one."""
        if peer is not None:
            figure.peer, figure.ratio = peer.name, figure.per_second / peer.per_second
        self.figures.append(figure)
        return figure

    def show(self, console: Console) -> None:
        table = Table("measured", "per second", "p50 ms", "p99 ms", "errors", "ratio", "against", box=None)
        table.columns[0].no_wrap = True
        for figure in self.figures:
            table.add_row(
                figure.name,
                f"{figure.per_second:,.0f} {figure.unit}",
                "" if figure.p50_ms is None else f"{figure.p50_ms:.1f}",
                "" if figure.p99_ms is None else f"{figure.p99_ms:.1f}",
                str(figure.errors),
                "" if figure.ratio is None else f"[bold]{figure.ratio:.2f}[/]",
                figure.peer,
            )
        console.print(table)

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        machine = {"cores": os.cpu_count(), "python": platform.python_version(), "system": platform.system()}
        document = {
            "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": machine,
            "figures": [asdict(figure) for figure in self.figures],
        }
        path.write_text(json.dumps(document, indent=2) + "\n")
