"""Spans for the SQL statements of sampled calls, with the statement's text and never its values."""

import functools
from typing import Any, Self

from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine

from chassis.observe import tracing
from chassis.observe.otlp import Template

_LONGEST_TEXT = 2000
_ROWS = "db.response.returned_rows"


class SqlSpan:
    """The span of a statement, or nothing when the call around it is not recorded; a context manager."""

    __slots__ = ("_span",)

    def __init__(self, span: Span | None) -> None:
        self._span = span

    def set_rows(self, rows: int) -> None:
        """Records how many rows were returned or changed."""
        if self._span is not None:
            self._span.set_attribute(_ROWS, rows)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _type: object, error: BaseException | None, _traceback: object) -> None:
        if self._span is not None:
            if error is not None:
                _fail(self._span, error)
            self._span.end()


def span(text: str) -> SqlSpan:
    """Records a statement when the call around it is recorded; otherwise costs a single check."""
    return SqlSpan(_start(text))


def instrument(engine: AsyncEngine) -> None:
    """Records the statements that go through SQLAlchemy."""
    event.listen(engine.sync_engine, "before_cursor_execute", _before)
    event.listen(engine.sync_engine, "after_cursor_execute", _after)
    event.listen(engine.sync_engine, "handle_error", _on_error)


def _start(text: str) -> Span | None:
    if not trace.get_current_span().is_recording():
        return None
    return tracing.recorder().start_child(_template(text))


@functools.lru_cache(1024)
def _template(text: str) -> Template:
    text = " ".join(text.split())
    operation = text.partition(" ")[0].upper()
    attributes = {
        "db.system.name": "postgresql",
        "db.operation.name": operation,
        "db.query.text": text[:_LONGEST_TEXT],
    }
    return Template(f"SQL {operation}", SpanKind.CLIENT, attributes)


def _fail(span: Span, error: BaseException) -> None:
    # The class only: a driver's message may hold values.
    span.set_status(Status(StatusCode.ERROR, type(error).__name__))


def _before(_connection: Any, _cursor: Any, statement: str, _values: Any, context: Any, _many: bool) -> None:
    if context is not None:
        context.mesh_span = _start(statement)


def _after(_connection: Any, cursor: Any, _statement: str, _values: Any, context: Any, _many: bool) -> None:
    started = getattr(context, "mesh_span", None)
    if started is not None:
        started.set_attribute(_ROWS, max(cursor.rowcount, 0))
        started.end()


def _on_error(failure: Any) -> None:
    started = getattr(failure.execution_context, "mesh_span", None)
    if started is not None:
        _fail(started, failure.original_exception)
        started.end()
