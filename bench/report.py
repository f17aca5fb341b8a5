"""Figures of one run: tables for people, JSON for the record."""

import json
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.goals import GOALS, Goal

RESULTS = Path(__file__).parent / "results"


@dataclass
class Figure:
    """One measurement, and its ratios to peers of the same run."""

    name: str
    per_second: float
    unit: str = "requests/s"
    p50_ms: float | None = None
    p99_ms: float | None = None
    errors: int = 0
    # Peer's figure → this one's share of it, the median over alternating rounds.
    ratios: dict[str, float] = field(default_factory=dict)
    # Process → microseconds of CPU for one request.
    cpu_us: dict[str, float] = field(default_factory=dict)
    note: str = ""


@dataclass
class Report:
    """All figures of one run on one machine."""

    figures: list[Figure] = field(default_factory=list)

    def add(self, figure: Figure, *, against: Mapping[str, float] | None = None) -> Figure:
        """Adds a figure, with its ratios by the names of the figures that it is compared with."""
        figure.ratios.update(against or {})
        self.figures.append(figure)
        return figure

    def show(self, console: Console) -> None:
        """Prints the figures, the CPU time by process, and the goals with their results."""
        console.print(self._rates())
        if any(figure.cpu_us for figure in self.figures):
            console.print("\nCPU per request by process, in µs: not affected by other load on the machine")
            console.print(self._cpu())
        console.print("\nGoals")
        console.print(self._goals())

    def save(self, path: Path) -> None:
        """Writes everything as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        machine = {"cores": os.cpu_count(), "python": platform.python_version(), "system": platform.system()}
        document = {
            "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": machine,
            "figures": [asdict(figure) for figure in self.figures],
            "goals": [
                {"goal": str(goal), "reached": self._reached(goal)}
                for goal in GOALS
                if self._reached(goal) is not None
            ],
        }
        path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n")

    def _rates(self) -> Table:
        table = Table("measured", "per second", "p50 ms", "p99 ms", "errors", "ratio", "against", box=None)
        table.columns[0].no_wrap = True
        for figure in self.figures:
            first, *others = figure.ratios.items() or [("", None)]
            table.add_row(
                figure.name,
                f"{figure.per_second:,.0f} {figure.unit}",
                "" if figure.p50_ms is None else f"{figure.p50_ms:.1f}",
                "" if figure.p99_ms is None else f"{figure.p99_ms:.1f}",
                str(figure.errors),
                *_ratio(*first),
            )
            for other in others:
                table.add_row("", "", "", "", "", *_ratio(*other))
        return table

    def _cpu(self) -> Table:
        table = Table("measured", "all", "by process", box=None)
        table.columns[0].no_wrap = True
        for figure in self.figures:
            if figure.cpu_us:
                largest = sorted(figure.cpu_us.items(), key=lambda item: -item[1])
                parts = ", ".join(f"{name} {spent:,.0f}" for name, spent in largest)
                table.add_row(figure.name, f"{sum(figure.cpu_us.values()):,.0f}", parts)
        return table

    def _goals(self) -> Table:
        table = Table("goal", "reached", "", box=None)
        for goal in GOALS:
            if (reached := self._reached(goal)) is not None:
                table.add_row(
                    str(goal), f"{reached:,.2f}", "met" if goal.met_by(reached) else "[bold]missed[/]"
                )
        return table

    def _reached(self, goal: Goal) -> float | None:
        """Returns this run's result for a goal; None when it was not measured."""
        for figure in self.figures:
            if figure.name == goal.figure:
                found = goal.value(figure.per_second, figure.p50_ms, figure.ratios)
                if found is not None:
                    return found
        return None


def _ratio(peer: str, ratio: float | None) -> tuple[str, str]:
    return ("" if ratio is None else f"[bold]{ratio:.2f}[/]"), peer
