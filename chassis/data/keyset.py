"""Keyset pagination: the condition for the rows of an ordering that come behind the row that a cursor names."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, UnaryExpression, and_, bindparam, false, or_, tuple_
from sqlalchemy.orm import InstrumentedAttribute
from sqlalchemy.sql import operators

from chassis.data.queries import Row

# A column, a mapped attribute, or either with `.asc()` or `.desc()`.
Expression = ColumnElement[Any] | InstrumentedAttribute[Any]


@dataclass(frozen=True, slots=True)
class _Key:
    """A column of the ordering. NULLs sort as in PostgreSQL: last when ascending, first when descending."""

    column: ColumnElement[Any]
    descending: bool
    nullable: bool
    name: str

    @classmethod
    def of(cls, name: str, given: Expression) -> "_Key":
        expression: ColumnElement[Any] = given.expression
        descending = isinstance(expression, UnaryExpression) and expression.modifier is operators.desc_op
        column = expression.element if isinstance(expression, UnaryExpression) else expression
        return cls(column, descending, getattr(column, "nullable", True), name)

    def same(self, null: bool) -> ColumnElement[bool]:
        return self.column.is_(None) if null else self.column == self.bind()

    def behind(self, null: bool) -> ColumnElement[bool]:
        """Returns the condition of being strictly behind the cursor's value; `null` says whether that is NULL."""
        if null:
            return self.column.is_not(None) if self.descending else false()
        if self.descending:
            return self.column < self.bind()
        behind = self.column > self.bind()
        return or_(behind, self.column.is_(None)) if self.nullable else behind

    def bind(self) -> ColumnElement[Any]:
        return bindparam(self.name, type_=self.column.type, required=True)


class Keyset:
    """The columns of an ordering. Each row carries them besides its own columns, so that a cursor can name the row."""

    def __init__(self, order_by: Sequence[Expression]) -> None:
        # Counted from the last, so that an ordering and the same ordering with a column in front share their names.
        names = [f"listing_key_{index}" for index in reversed(range(len(order_by)))]
        self._keys = [_Key.of(name, given) for name, given in zip(names, order_by, strict=True)]

    def columns(self) -> list[ColumnElement[Any]]:
        """Returns the columns that a SELECT adds to its own."""
        return [key.column.label(key.name) for key in self._keys]

    def position(self, row: Row) -> list[Any]:
        """Returns a row's position in the ordering."""
        return [getattr(row, key.name) for key in self._keys]

    def values(self, position: Sequence[Any]) -> dict[str, Any]:
        """Returns the parameters of `behind`."""
        pairs = zip(self._keys, position, strict=True)
        return {key.name: value for key, value in pairs if value is not None}

    def behind(self, nulls: Sequence[bool]) -> ColumnElement[bool]:
        """Returns the condition of being behind a position whose values are NULL where `nulls` says so.

        That is: the first key is behind, or the first is the same and the second is behind, and so on.
        """
        if len({key.descending for key in self._keys}) == 1 and not any(key.nullable for key in self._keys):
            return self._row_behind()
        alternatives = []
        for depth, key in enumerate(self._keys):
            same = [earlier.same(nulls[index]) for index, earlier in enumerate(self._keys[:depth])]
            alternatives.append(and_(*same, key.behind(nulls[depth])))
        return or_(*alternatives)

    def _row_behind(self) -> ColumnElement[bool]:
        """Compares all keys at once, as a row comparison, which an index on them supports directly."""
        columns, values = (
            tuple_(*(key.column for key in self._keys)),
            tuple_(*(key.bind() for key in self._keys)),
        )
        return columns < values if self._keys[0].descending else columns > values
