"""Listings: one SELECT read page by page, by number or by signed cursor, with its total."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from protomesh.type.v1.page_pb2 import PageMeta
from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Select,
    UnaryExpression,
    and_,
    bindparam,
    false,
    func,
    or_,
    select,
    tuple_,
)
from sqlalchemy.orm import InstrumentedAttribute
from sqlalchemy.sql import operators

from chassis.core.errors import InvalidArgument
from chassis.data import cursor as cursors
from chassis.data.database import Database
from chassis.data.queries import Query, Row

DEFAULT_LIMIT = 20
MAXIMUM_LIMIT = 100
# Rows that are counted one by one; beyond, the planner's estimate has to do.
EXACT_TOTAL = 10_000
# What the meta's 32 bits hold: a 64-bit number would be a string in JSON.
LARGEST_TOTAL = 2**31 - 1
# Rows that a page number may skip: PostgreSQL reads all that it skips. A cursor has no such bound.
DEEPEST_OFFSET = 100_000

# A column, a mapped attribute, or either with `.asc()` or `.desc()`.
Expression = ColumnElement[Any] | InstrumentedAttribute[Any]

_LIMIT, _OFFSET = "listing_limit", "listing_offset"


class ListRequest(Protocol):
    """What every list request has."""

    @property
    def page(self) -> int: ...
    @property
    def limit(self) -> int: ...
    @property
    def cursor(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Page:
    """The rows of a page, and where it stands in the whole list."""

    rows: list[Row]
    meta: PageMeta


@dataclass(frozen=True, slots=True)
class _Key:
    """A column of the ordering. NULLs come where PostgreSQL puts them: last ascending, first descending."""

    column: ColumnElement[Any]
    descending: bool
    nullable: bool
    name: str

    @classmethod
    def of(cls, index: int, given: Expression) -> "_Key":
        expression: ColumnElement[Any] = given.expression
        descending = isinstance(expression, UnaryExpression) and expression.modifier is operators.desc_op
        column = expression.element if isinstance(expression, UnaryExpression) else expression
        return cls(column, descending, getattr(column, "nullable", True), f"listing_key_{index}")

    def same(self, null: bool) -> ColumnElement[bool]:
        return self.column.is_(None) if null else self.column == self.bind()

    def behind(self, null: bool) -> ColumnElement[bool]:
        """Strictly behind the cursor's value, which is or is not NULL."""
        if null:
            return self.column.is_not(None) if self.descending else false()
        if self.descending:
            return self.column < self.bind()
        behind = self.column > self.bind()
        return or_(behind, self.column.is_(None)) if self.nullable else behind

    def row_behind(self, keys: Sequence["_Key"]) -> ColumnElement[bool]:
        """All keys at once, as a row comparison, which an index on them answers directly."""
        columns, values = tuple_(*(key.column for key in keys)), tuple_(*(key.bind() for key in keys))
        return columns < values if self.descending else columns > values

    def bind(self) -> ColumnElement[Any]:
        return bindparam(self.name, type_=self.column.type, required=True)


class Listing:
    """A list that clients page through; define it once, at import.

    `filters` are conditions by name, each with a `bindparam` of that name (or several, given as a mapping);
    only those that a fetch names are applied. `order_by` must end in a unique column, so that no row is
    skipped or shown twice while others are inserted. A combination of filters is compiled at its first use.
    """

    def __init__(
        self,
        statement: Select[*tuple[Any, ...]],
        *,
        order_by: Sequence[Expression],
        filters: Mapping[str, ColumnElement[bool]] | None = None,
    ) -> None:
        self._filters = dict(filters or {})
        self._keys = [_Key.of(index, expression) for index, expression in enumerate(order_by)]
        self._counted = statement
        columns = [key.column.label(key.name) for key in self._keys]
        self._statement = statement.add_columns(*columns).order_by(*order_by)
        # Cursors survive a deployment that adds a column, not one that changes the order.
        self._name = " ".join(str(expression) for expression in order_by)
        self._queries: dict[tuple[object, ...], Query] = {}

    async def fetch(
        self,
        database: Database,
        request: ListRequest,
        *,
        filters: Mapping[str, Any] | None = None,
        scope: Mapping[str, Any] | None = None,
    ) -> Page:
        """Reads a page. A filter of None or "" is not applied; `scope` fills the SELECT's own bindparams.

        InvalidArgument: VALIDATION_FAILED for a negative number, page with cursor, or a page beyond 100,000
        rows; CURSOR_INVALID for a cursor that is damaged or of another list, filter or scope.
        """
        limit, offset = window(request)
        given = {name: value for name, value in (filters or {}).items() if value is not None and value != ""}
        selection = _Selection(frozenset(given), _flatten(given) | dict(scope or {}))
        if offset > DEEPEST_OFFSET:
            return await self._too_deep(database, request, selection, limit)
        identity = f"{self._name} {selection.identity()}".encode()
        query, bound = self._start(request, selection, identity, database.cursor_secret)
        if query.takes(_OFFSET):
            bound[_OFFSET] = offset
        rows = await database.all(query, **selection.values, **bound, **{_LIMIT: limit + 1})
        more, rows = len(rows) > limit, rows[:limit]
        if more or offset or request.cursor:
            total = await self._total(database, selection)
        else:  # the whole list is here
            total = len(rows), False
        cursor = self._cursor(rows[-1], identity, database.cursor_secret) if more else ""
        return _page(request, rows, limit, total, cursor)

    async def _too_deep(
        self, database: Database, request: ListRequest, selection: "_Selection", limit: int
    ) -> Page:
        total = await self._total(database, selection)
        if total[1]:
            raise _violation(("page", f"reaches beyond {DEEPEST_OFFSET} rows; read on by cursor"))
        return _page(request, [], limit, total, "")

    def _start(
        self, request: ListRequest, selection: "_Selection", identity: bytes, secret: bytes
    ) -> tuple[Query, dict[str, Any]]:
        """The query for where the request wants to begin, and the cursor's values for it."""
        if not request.cursor:
            return self._query(selection.names, None), {}
        position = cursors.verify(request.cursor, identity, secret)
        bound = {
            key.name: value for key, value in zip(self._keys, position, strict=True) if value is not None
        }
        return self._query(selection.names, tuple(value is None for value in position)), bound

    def _cursor(self, row: Row, identity: bytes, secret: bytes) -> str:
        return cursors.sign([getattr(row, key.name) for key in self._keys], identity, secret)

    def _query(self, names: frozenset[str], nulls: tuple[bool, ...] | None) -> Query:
        """The query for these filters: from an offset, or behind a cursor with NULLs at these keys."""
        found = self._queries.get((names, nulls))
        if found is None:
            statement = self._filtered(self._statement, names).limit(
                bindparam(_LIMIT, type_=BigInteger, required=True)
            )
            if nulls is None:
                statement = statement.offset(bindparam(_OFFSET, type_=BigInteger, required=True))
            else:
                statement = statement.where(self._behind(nulls))
            found = self._queries[names, nulls] = Query(statement)
        return found

    def _behind(self, nulls: tuple[bool, ...]) -> ColumnElement[bool]:
        """The first key behind, or the same and the second behind, and so on."""
        if len({key.descending for key in self._keys}) == 1 and not any(key.nullable for key in self._keys):
            return self._keys[0].row_behind(self._keys)
        alternatives = []
        for depth, key in enumerate(self._keys):
            same = [earlier.same(nulls[index]) for index, earlier in enumerate(self._keys[:depth])]
            alternatives.append(and_(*same, key.behind(nulls[depth])))
        return or_(*alternatives)

    def _filtered(
        self, statement: Select[*tuple[Any, ...]], names: frozenset[str]
    ) -> Select[*tuple[Any, ...]]:
        return statement.where(*(self._filters[name] for name in sorted(names)))

    async def _total(self, database: Database, selection: "_Selection") -> tuple[int, bool]:
        """Rows of the whole list, and whether that is an estimate."""
        found = self._queries.get((selection.names, "total"))
        if found is None:
            rows = self._filtered(self._counted, selection.names).limit(EXACT_TOTAL + 1).subquery()
            found = Query(select(func.count().label("total")).select_from(rows))
            self._queries[selection.names, "total"] = found
        row = await database.one(found, **selection.values)
        total = int(row.total) if row else 0
        if total <= EXACT_TOTAL:
            return total, False
        return min(max(total, await self._estimate(database, selection)), LARGEST_TOTAL), True

    async def _estimate(self, database: Database, selection: "_Selection") -> int:
        found = self._queries.get((selection.names, "estimate"))
        if found is None:
            found = Query(self._filtered(self._counted, selection.names)).explained()
            self._queries[selection.names, "estimate"] = found
        row = await database.one(found, **selection.values)
        return int(row[0][0]["Plan"]["Plan Rows"]) if row else 0


@dataclass(frozen=True, slots=True)
class _Selection:
    """Which rows a list holds: the filters that are applied, and all values."""

    names: frozenset[str]
    values: dict[str, Any]

    def identity(self) -> str:
        return json.dumps([sorted(self.names), self.values], default=str, sort_keys=True)


def _page(request: ListRequest, rows: list[Row], limit: int, total: tuple[int, bool], cursor: str) -> Page:
    count, estimated = total
    page = 0 if request.cursor else request.page or 1
    return Page(
        rows, PageMeta(total=count, page=page, limit=limit, next_cursor=cursor, total_is_estimate=estimated)
    )


def window(request: ListRequest) -> tuple[int, int]:
    """Limit and offset of a request, within bounds."""
    wrong = [(name, "must not be negative") for name in ("page", "limit") if getattr(request, name) < 0]
    if request.cursor and request.page:
        wrong.append(("cursor", "cannot be given together with page"))
    if wrong:
        raise _violation(*wrong)
    limit = min(request.limit or DEFAULT_LIMIT, MAXIMUM_LIMIT)
    return limit, max(request.page - 1, 0) * limit


def _violation(*violations: tuple[str, str]) -> InvalidArgument:
    return InvalidArgument("VALIDATION_FAILED", "The request breaks its contract.", violations=violations)


def _flatten(given: Mapping[str, Any]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in given.items():
        values.update(value if isinstance(value, Mapping) else {name: value})
    return values
