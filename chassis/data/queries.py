"""Prepared statements: a SQLAlchemy statement, compiled once, that psycopg runs prepared."""

import copy
import functools
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import Any, NamedTuple, Self

from psycopg import AsyncConnection
from psycopg.rows import namedtuple_row
from sqlalchemy import ARRAY, ClauseElement, Dialect, Float, Select
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.schema import ScalarElementColumnDefault
from sqlalchemy.sql.selectable import ReturnsRows
from sqlalchemy.types import TypeEngine

from chassis.data import sql_spans
from chassis.data.pool import Connection

# A named tuple whose fields are named after the columns; psycopg creates the class from the result.
Row = Any

# With PostgreSQL's own placeholders, which psycopg need not translate for each execution.
_DIALECT: Dialect = PGDialect_psycopg(paramstyle="numeric_dollar")  # type: ignore[no-untyped-call]
# Only numeric types depend on what the server sent: double precision or numeric.
_FLOAT_OID, _NUMERIC_OID = 701, 1700

_PLACEHOLDER = re.compile(r"\$(\d+)")

_Conversion = Callable[[Any], Any]


class Outcome(NamedTuple):
    """What a statement returned, and how many rows it found or changed."""

    rows: list[Row]
    rowcount: int


class Prepared:
    """A statement that is compiled once, when it is defined at import, and run prepared many times.

    Values come from `bindparam("name")` in the statement and are given by name when it runs. `IN` would need
    a new text for each number of values: write `column == any_(bindparam("ids", type_=ARRAY(Uuid)))` instead.
    Raises TypeError for `IN`, and for an omitted column whose default is a Python function.
    """

    __slots__ = ("_binders", "_fixed", "_loaders", "_make", "_order", "names", "prepare", "sql")

    def __init__(self, statement: ClauseElement, *, prepare: bool = True) -> None:
        self.prepare = prepare
        compiled = statement.compile(dialect=_DIALECT)
        assert isinstance(compiled, SQLCompiler)
        if compiled.post_compile_params or compiled.literal_execute_params:
            raise TypeError(f"This statement's text depends on its values; use any_() for IN: {compiled}")
        self.sql = str(compiled)
        self._order = tuple(compiled.positiontup or ())
        # Makes a named tuple; known from the first result.
        self._make: _Conversion | None = None
        # The names of the required values.
        self.names = frozenset(name for name, bind in compiled.binds.items() if bind.required)
        self._fixed: dict[str, Any] = {
            name: value
            for name, value in compiled.construct_params(_check=False).items()
            if name not in self.names
        } | _defaults(compiled)
        self._binders = _conversions({name: _binder(bind.type) for name, bind in compiled.binds.items()})
        columns = statement.exported_columns.items() if isinstance(statement, ReturnsRows) else ()
        self._loaders = _conversions({name: _loader(column.type) for name, column in columns})

    def values(self, parameters: Mapping[str, Any]) -> list[Any]:
        """Returns the parameters for psycopg: the statement's constants and the caller's values, converted."""
        values = {**self._fixed, **parameters}
        for name, bind in self._binders.items():
            values[name] = bind(values[name])
        return [values[name] for name in self._order]

    async def execute(self, connection: AsyncConnection[Any], parameters: Mapping[str, Any]) -> Outcome:
        """Runs the statement on a pooled connection, with a span."""
        assert isinstance(connection, Connection)
        cursor = connection.statements
        with sql_spans.span(self.sql) as span:
            await cursor.execute(self.sql, self.values(parameters), prepare=self.prepare)
            # `cursor.description` would create an object for each column.
            result = cursor.pgresult
            rows = await cursor.fetchall() if result is not None and result.nfields else []
            span.set_rows(max(cursor.rowcount, 0))
        if rows:
            self._make = self._make or namedtuple_row(cursor)
            rows = [*map(self._make, rows)]
        if result is not None:
            result.clear()  # a large one would stay in memory until the connection's next statement
        return Outcome(self.rows(rows), cursor.rowcount)

    @property
    def placeholders(self) -> int:
        """The number of values that the text takes."""
        return len(self._order)

    def numbered_from(self, start: int) -> str:
        """Returns the text with the numbers of its placeholders increased by `start`."""
        return _PLACEHOLDER.sub(lambda found: f"${int(found[1]) + start}", self.sql)

    def rows(self, rows: list[Row]) -> list[Row]:
        """Returns the rows with the columns' own conversions applied, such as that of an encrypted field."""
        if not self._loaders:
            return rows
        return [
            row._replace(**{name: load(getattr(row, name)) for name, load in self._loaders.items()})
            for row in rows
        ]


class Query(Prepared):
    """A SELECT for the read path: `Database.one` and `all` run it outside any transaction.

    `prepare` is False where no single plan fits all values, as with the words of a search: PostgreSQL then plans
    the query each time, which costs about 0.3 ms.
    """

    __slots__ = ()

    def __init__(self, statement: Select[*tuple[Any, ...]], *, prepare: bool = True) -> None:
        super().__init__(statement, prepare=prepare)

    def takes(self, name: str) -> bool:
        """Whether a value of this name must be given."""
        return name in self.names

    def explained(self) -> Self:
        """Returns a query for this query's plan (one row, one column of JSON)."""
        plan = copy.copy(self)
        plan.sql, plan._loaders, plan._make = f"EXPLAIN (FORMAT JSON) {self.sql}", {}, None  # noqa: SLF001 (its own)
        return plan


# A statement and its values.
Step = tuple[Prepared, Mapping[str, Any]]


async def execute_together(connection: Connection, steps: Sequence[Step]) -> int:
    """Runs writes as one statement, in one round trip; returns how many rows the last one changed.

    Each sees the database as it was before the first one.
    """
    sql = _combined(tuple(statement for statement, _ in steps))
    values = [value for statement, parameters in steps for value in statement.values(parameters)]
    cursor = connection.statements
    with sql_spans.span(sql) as span:
        await cursor.execute(sql, values, prepare=True)
        span.set_rows(max(cursor.rowcount, 0))
    return cursor.rowcount


@functools.cache
def _combined(statements: tuple[Prepared, ...]) -> str:
    """Returns the last statement with the others in its WITH clause."""
    starts = accumulate((statement.placeholders for statement in statements), initial=0)
    *others, last = map(Prepared.numbered_from, statements, starts)
    if not others:
        return last
    return f"WITH {', '.join(f'step{number} AS ({sql})' for number, sql in enumerate(others))} {last}"


def containing(text: str) -> str:
    """Returns the LIKE pattern for values that contain the text, with its wildcards escaped; "" for an empty text."""
    escaped = text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return f"%{escaped}%" if text else ""


def _defaults(compiled: SQLCompiler) -> dict[str, Any]:
    """Returns the model's constant defaults for the columns that the statement omits."""
    values = {}
    for column in (*compiled.insert_prefetch, *compiled.update_prefetch):
        if not isinstance(column.default, ScalarElementColumnDefault):
            raise TypeError(f"{column} needs a value: its default is not a constant.")
        values[column.key] = column.default.arg
    return values


def _conversions(by_name: dict[str, _Conversion | None]) -> dict[str, _Conversion]:
    return {name: convert for name, convert in by_name.items() if convert is not None}


def _binder(kind: TypeEngine[Any]) -> _Conversion | None:
    return kind.dialect_impl(_DIALECT).bind_processor(_DIALECT)


def _loader(kind: TypeEngine[Any]) -> _Conversion | None:
    if isinstance(kind, ARRAY) and _loader(kind.item_type) is None:
        # psycopg already returns a list, and SQLAlchemy would copy it.
        return None
    sent = _FLOAT_OID if isinstance(kind, Float) else _NUMERIC_OID
    return kind.dialect_impl(_DIALECT).result_processor(_DIALECT, sent)
