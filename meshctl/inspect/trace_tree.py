"""A trace as a tree for the terminal: one line for each hop, with a bar that shows when it ran."""

from __future__ import annotations

from collections import defaultdict

from protomesh.observer.v1.trace_pb2 import Span, Trace
from rich.markup import escape
from rich.tree import Tree

_BAR_WIDTH = 24
_LONGEST_STATEMENT = 80
_COLOURS = ("cyan", "green", "magenta", "yellow", "blue", "bright_cyan", "bright_green", "bright_magenta")


def draw(trace: Trace) -> Tree:
    """Draws spans below their parents; a span whose parent is not kept is drawn at the top."""
    origin = min((_start(span) for span in trace.spans), default=0.0)
    length = max((_start(span) + span.duration_ms for span in trace.spans), default=0.0) - origin
    services = sorted({span.service for span in trace.spans})
    colours = {service: _COLOURS[index % len(_COLOURS)] for index, service in enumerate(services)}
    children = _children(trace)

    def line(span: Span) -> str:
        bar = _bar(_start(span) - origin, span.duration_ms, length)
        service = f"[{colours[span.service]}]{escape(span.service):<10}[/]"
        fault = f" [bold red]{escape(span.error_message or 'error')}[/]" if span.error else ""
        return f"[dim]{bar}[/] {span.duration_ms:8.1f} ms  {service} {_work(span)}{fault}"

    def grow(branch: Tree, parent: str) -> None:
        for span in children.get(parent, []):
            grow(branch.add(line(span)), span.span_id)

    dropped = f", {trace.dropped_spans} not kept" if trace.dropped_spans else ""
    tree = Tree(f"[bold]{trace.trace_id}[/]  {length:.1f} ms, {len(trace.spans)} spans{dropped}")
    grow(tree, "")
    return tree


def _children(trace: Trace) -> dict[str, list[Span]]:
    known = {span.span_id for span in trace.spans}
    children: dict[str, list[Span]] = defaultdict(list)
    for span in trace.spans:
        children[span.parent_span_id if span.parent_span_id in known else ""].append(span)
    return children


def _start(span: Span) -> float:
    return span.started_at.ToNanoseconds() / 1e6


def _bar(offset: float, duration: float, length: float) -> str:
    """Returns the bar of a span within the whole trace: at least one cell, so that a short hop is visible."""
    scale = _BAR_WIDTH / length if length else 0.0
    before = min(int(offset * scale), _BAR_WIDTH - 1)
    filled = max(1, min(round(duration * scale), _BAR_WIDTH - before))
    return "·" * before + "█" * filled + "·" * (_BAR_WIDTH - before - filled)


def _work(span: Span) -> str:
    """Returns what was done, for a person to read: a statement by its text, a message with its subject."""
    statement = " ".join(span.attributes.get("db.query.text", "").split())
    if statement:
        return f"SQL [dim]{escape(_short(statement))}[/]"
    subject = span.attributes.get("messaging.destination.name", "")
    return f"{escape(span.name)} [dim]{escape(subject)}[/]" if subject else escape(span.name)


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST_STATEMENT else f"{text[: _LONGEST_STATEMENT - 1]}…"
