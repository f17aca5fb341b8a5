"""Queries for the read path: a SQLAlchemy statement, compiled once, that psycopg runs prepared."""

import copy
from collections.abc import Callable, Mapping
from typing import Any, Self

from sqlalchemy import Dialect, Float, Select
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.types import TypeEngine

# A named tuple whose fields are the columns' names; psycopg makes the class from the answer.
Row = Any

_DIALECT: Dialect = PGDialect_psycopg()  # type: ignore[no-untyped-call]
# Only numeric types ask what the server sent: double precision, or numeric.
_FLOAT_OID, _NUMERIC_OID = 701, 1700

_Conversion = Callable[[Any], Any]


class Query:
    """A SELECT that is compiled when it is defined, at import, and run many times.

    Values come from `bindparam("name")` in the statement and are given by name when it runs. `IN` would need
    a new text for each number of values: write `column == any_(bindparam("ids", type_=ARRAY(Uuid)))` instead;
    TypeError tells who forgets. `prepare` is False where one plan does not serve all values, as with the words of a
    search: PostgreSQL then plans the query each time, for about 0.3 ms.
    """

    __slots__ = ("_binders", "_fixed", "_loaders", "names", "prepare", "sql")

    def __init__(self, statement: Select[*tuple[Any, ...]], *, prepare: bool = True) -> None:
        self.prepare = prepare
        compiled = statement.compile(dialect=_DIALECT)
        assert isinstance(compiled, SQLCompiler)
        if compiled.post_compile_params or compiled.literal_execute_params:
            raise TypeError(f"This statement's text depends on its values; use any_() for IN: {compiled}")
        self.sql = str(compiled)
        # The names of the values that must be given.
        self.names = frozenset(name for name, bind in compiled.binds.items() if bind.required)
        self._fixed: dict[str, Any] = {
            name: value
            for name, value in compiled.construct_params(_check=False).items()
            if name not in self.names
        }
        self._binders = _conversions({name: _binder(bind.type) for name, bind in compiled.binds.items()})
        columns = statement.exported_columns.items()
        self._loaders = _conversions({name: _loader(column.type) for name, column in columns})

    def values(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """What psycopg is given: the statement's constants and the caller's values, converted."""
        values = {**self._fixed, **parameters}
        for name, bind in self._binders.items():
            values[name] = bind(values[name])
        return values

    def takes(self, name: str) -> bool:
        """Whether a value of this name must be given."""
        return name in self.names

    def explained(self) -> Self:
        """The same query, answered with the planner's view of it (one row, one column of JSON)."""
        plan = copy.copy(self)
        plan.sql, plan._loaders = f"EXPLAIN (FORMAT JSON) {self.sql}", {}  # noqa: SLF001 (its own)
        return plan

    def rows(self, rows: list[Row]) -> list[Row]:
        """Rows with the columns' own conversions (an encrypted field's, for one) applied."""
        if not self._loaders:
            return rows
        return [
            row._replace(**{name: load(getattr(row, name)) for name, load in self._loaders.items()})
            for row in rows
        ]


def containing(text: str) -> str:
    """The LIKE pattern of whatever contains the text, no character of which is a wildcard; "" for no text."""
    escaped = text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return f"%{escaped}%" if text else ""


def _conversions(by_name: dict[str, _Conversion | None]) -> dict[str, _Conversion]:
    return {name: convert for name, convert in by_name.items() if convert is not None}


def _binder(kind: TypeEngine[Any]) -> _Conversion | None:
    return kind.dialect_impl(_DIALECT).bind_processor(_DIALECT)


def _loader(kind: TypeEngine[Any]) -> _Conversion | None:
    sent = _FLOAT_OID if isinstance(kind, Float) else _NUMERIC_OID
    return kind.dialect_impl(_DIALECT).result_processor(_DIALECT, sent)
