"""The spans of SQL statements: what ran, how many rows it was about, and whether it failed."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Status
from sqlalchemy import insert, select, text
from sqlalchemy.exc import IntegrityError

from chassis.core import uuid7
from chassis.data import Database, Query
from chassis.observe import OtlpExport, Recorder, tracing
from tests.service.chassis.things import Thing, happened


class Statements:
    """The spans of SQL statements that were recorded."""

    def __init__(self) -> None:
        self._all: list[Any] = []

    def take(self, request: ExportTraceServiceRequest) -> None:
        for resource in request.resource_spans:
            for scope in resource.scope_spans:
                self._all.extend(span for span in scope.spans if span.name.startswith("SQL "))

    def told(self) -> list[tuple[str, int, str]]:
        """Returns of each span its name, its rows, and its error."""
        tracing.recorder().flush()
        return [(span.name, _rows(span), _error(span)) for span in self._all]


def _rows(span: Any) -> int:
    found = [item.value.int_value for item in span.attributes if item.key == "db.response.returned_rows"]
    return found[0] if found else -1


def _error(span: Any) -> str:
    return span.status.message if span.status.code == Status.STATUS_CODE_ERROR else ""


@pytest.fixture
def statements() -> Iterator[Statements]:
    before, taken = tracing.recorder(), Statements()
    tracing.install(Recorder(OtlpExport(taken.take)))
    yield taken
    tracing.install(before)


async def test_a_statement_tells_its_rows(database: Database, statements: Statements) -> None:
    with tracing.span("work"):
        async with database.unit_of_work() as work:
            await work.execute(insert(Thing).values([{"id": uuid7()}, {"id": uuid7()}]))
        assert len(await database.all(Query(select(Thing.id)))) == 2
    assert [told for told in statements.told() if told[0] != "SQL COMMIT"] == [
        ("SQL INSERT", 2, ""),
        ("SQL SELECT", 2, ""),
    ]


async def test_changes_come_before_their_events(database: Database, statements: Statements) -> None:
    """So that the locks of the rows put the events about them in order."""
    async with database.unit_of_work() as work:
        work.add(thing := Thing(id=uuid7(), name="before"))
    with tracing.span("work"):
        async with database.unit_of_work() as work:
            changed = await work.get(Thing, thing.id)
            assert changed is not None
            changed.name = "after"
            work.publish(happened(str(thing.id)), version=1)
    names = [name for name, _, _ in statements.told()]
    assert names.index("SQL UPDATE") < names.index("SQL INSERT")


async def test_a_statement_that_fails_tells_the_class_of_its_error(
    database: Database, statements: Statements
) -> None:
    thing = uuid7()
    with tracing.span("work"):
        with pytest.raises(IntegrityError):
            async with database.unit_of_work() as work:
                await work.execute(insert(Thing).values([{"id": thing}, {"id": thing}]))
        with pytest.raises(psycopg.errors.DivisionByZero):
            await database.all(Query(select(text("1 / 0"))))
    assert [(name, error) for name, _, error in statements.told()] == [
        ("SQL INSERT", "UniqueViolation"),
        ("SQL SELECT", "DivisionByZero"),
    ]
