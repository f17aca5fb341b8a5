"""Listings: a SELECT that is read page by page, by page number or by signed cursor, with its total."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from protomesh.type.v1.page_pb2 import PageMeta
from sqlalchemy import BigInteger, ColumnElement, Select, bindparam

from chassis.core.errors import InvalidArgument
from chassis.data import cursor as cursors
from chassis.data.database import Database
from chassis.data.keyset import Expression, Keyset
from chassis.data.queries import Query, Row
from chassis.data.totals import COUNTED, Total, Totals

DEFAULT_LIMIT = 20
MAXIMUM_LIMIT = 100
# Rows that a page number may skip: PostgreSQL reads all rows that it skips. A cursor has no such bound.
DEEPEST_OFFSET = 100_000

_LIMIT, _OFFSET = "listing_limit", "listing_offset"


class ListRequest(Protocol):
    """The fields that every list request has."""

    @property
    def page(self) -> int: ...
    @property
    def limit(self) -> int: ...
    @property
    def cursor(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Page:
    """The rows of a page, and its place in the whole list."""

    rows: list[Row]
    meta: PageMeta


@dataclass(frozen=True, slots=True)
class Start:
    """Where a page begins: behind a position of the ordering, or behind a number of rows."""

    position: Sequence[Any] | None = None
    offset: int = 0
    # The total that was counted for the cursor's first page.
    total: Total | None = None


@dataclass(frozen=True, slots=True)
class Selection:
    """Which rows a list holds: the names of the applied filters, and all values."""

    names: frozenset[str]
    values: dict[str, Any]


class Listing:
    """A list that clients page through; define it once, at import.

    `filters` are conditions by name, each with a `bindparam` of that name (or several, given as a mapping);
    only those that a fetch names are applied. `order_by` must end in a unique column, so that no row is
    skipped or shown twice while others are inserted. A combination of filters is compiled at its first use.
    `selective` names filters whose values determine the best plan: a query with one of them is planned each time.
    """

    def __init__(
        self,
        statement: Select[*tuple[Any, ...]],
        *,
        order_by: Sequence[Expression],
        filters: Mapping[str, ColumnElement[bool]] | None = None,
        selective: Collection[str] = (),
    ) -> None:
        self._filters = dict(filters or {})
        self._selective = frozenset(selective)
        self._keyset = Keyset(order_by)
        self._counted = statement
        self._statement = statement.add_columns(*self._keyset.columns()).order_by(*order_by)
        # Cursors stay valid when a deployment adds a column, but not when it changes the order or a cursor's content.
        self._name = "2 " + " ".join(str(expression) for expression in order_by)
        self._queries: dict[tuple[object, ...], Query] = {}
        self._totals: dict[frozenset[str], Totals] = {}

    async def fetch(
        self,
        database: Database,
        request: ListRequest,
        *,
        filters: Mapping[str, Any] | None = None,
        scope: Mapping[str, Any] | None = None,
    ) -> Page:
        """Reads a page. A filter of None or "" is not applied; `scope` fills the SELECT's own bindparams.

        The total is counted for the first page and carried in its cursors.

        Raises InvalidArgument: VALIDATION_FAILED for a negative number, page with cursor, or a page beyond 100,000
        rows; CURSOR_INVALID for a cursor that is damaged or belongs to another list, filter or scope.
        """
        limit, offset = window(request)
        given = {name: value for name, value in (filters or {}).items() if value is not None and value != ""}
        selection = Selection(frozenset(given), _flatten(given) | dict(scope or {}))
        if offset > DEEPEST_OFFSET:
            return await self._too_deep(database, request, selection, limit)
        identity, secret = self._identity(selection), database.cursor_secret
        start = _resumed(request.cursor, identity, secret) if request.cursor else Start(offset=offset)
        rows, total = await self._page(database, selection, start, limit)
        more, rows = len(rows) > limit, rows[:limit]
        cursor = ""
        if more:
            payload = [total.rows, total.is_estimate, *self._keyset.position(rows[-1])]
            cursor = cursors.sign(payload, identity, secret)
        return _page(request, rows, limit, total, cursor)

    async def rows(self, database: Database, selection: Selection, start: Start, at_most: int) -> list[Row]:
        """Returns up to `at_most` rows from a start."""
        bound: dict[str, Any] = {_LIMIT: at_most}
        if start.position is None:
            query = self._query(selection.names, None)
            bound[_OFFSET] = start.offset
        else:
            query = self._query(selection.names, tuple(value is None for value in start.position))
            bound |= self._keyset.values(start.position)
        return await database.all(query, **selection.values, **bound)

    def totals(self, selection: Selection) -> Totals:
        """Returns the counter of the rows that match these filters."""
        found = self._totals.get(selection.names)
        if found is None:
            statement = self._filtered(self._counted, selection.names)
            found = Totals(statement, prepare=self._prepares(selection.names))
            self._totals[selection.names] = found
        return found

    async def _page(
        self, database: Database, selection: Selection, start: Start, limit: int
    ) -> tuple[list[Row], Total]:
        """Returns the rows of a page, plus one more if there is one, and the total."""
        totals = self.totals(selection)
        total = start.total or totals.remembered(database, selection.values)
        if total is not None:
            return await self.rows(database, selection, start, limit + 1), total
        rows = await self._counted_rows(database, selection, start, limit + 1)
        if rows:
            return rows, await totals.settled(database, selection.values, getattr(rows[0], COUNTED))
        return rows, await self._total(database, selection) if start.offset else Total(0)

    async def _counted_rows(
        self, database: Database, selection: Selection, start: Start, at_most: int
    ) -> list[Row]:
        """Returns rows from an offset, each with the count of all rows."""
        bound = {_LIMIT: at_most, _OFFSET: start.offset} | self.totals(selection).bound
        found = self._queries.get((selection.names, COUNTED))
        if found is None:
            statement = self._from_offset(selection.names).add_columns(self.totals(selection).column)
            found = Query(statement, prepare=self._prepares(selection.names))
            self._queries[selection.names, COUNTED] = found
        return await database.all(found, **selection.values, **bound)

    async def _total(self, database: Database, selection: Selection) -> Total:
        return await self.totals(selection).of(database, selection.values)

    async def _too_deep(
        self, database: Database, request: ListRequest, selection: Selection, limit: int
    ) -> Page:
        total = await self._total(database, selection)
        if total.is_estimate:
            raise _violation(("page", f"reaches beyond {DEEPEST_OFFSET} rows; read on by cursor"))
        return _page(request, [], limit, total, "")

    def _identity(self, selection: Selection) -> bytes:
        """Returns the scope in which a cursor is valid."""
        chosen = json.dumps([sorted(selection.names), selection.values], default=str, sort_keys=True)
        return f"{self._name} {chosen}".encode()

    def _query(self, names: frozenset[str], nulls: tuple[bool, ...] | None) -> Query:
        """Returns the query for these filters: from an offset, or behind a cursor with NULLs at these keys."""
        found = self._queries.get((names, nulls))
        if found is None:
            if nulls is None:
                statement = self._from_offset(names)
            else:
                statement = self._limited(names).where(self._keyset.behind(nulls))
            found = self._queries[names, nulls] = Query(statement, prepare=self._prepares(names))
        return found

    def _from_offset(self, names: frozenset[str]) -> Select[*tuple[Any, ...]]:
        return self._limited(names).offset(bindparam(_OFFSET, type_=BigInteger, required=True))

    def _limited(self, names: frozenset[str]) -> Select[*tuple[Any, ...]]:
        return self._filtered(self._statement, names).limit(
            bindparam(_LIMIT, type_=BigInteger, required=True)
        )

    def _prepares(self, names: frozenset[str]) -> bool:
        return not names & self._selective

    def _filtered(
        self, statement: Select[*tuple[Any, ...]], names: frozenset[str]
    ) -> Select[*tuple[Any, ...]]:
        return statement.where(*(self._filters[name] for name in sorted(names)))


def _resumed(cursor: str, identity: bytes, secret: bytes) -> Start:
    rows, is_estimate, *position = cursors.verify(cursor, identity, secret)
    return Start(position, total=Total(rows, is_estimate))


def _page(request: ListRequest, rows: list[Row], limit: int, total: Total, cursor: str) -> Page:
    return Page(
        rows,
        PageMeta(
            total=total.rows,
            page=0 if request.cursor else request.page or 1,
            limit=limit,
            next_cursor=cursor,
            total_is_estimate=total.is_estimate,
        ),
    )


def window(request: ListRequest) -> tuple[int, int]:
    """Returns the limit and offset of a request, within bounds."""
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
