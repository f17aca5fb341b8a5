"""Ranked listings: lists that begin with the best matches, however many rows match."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Integer, Select, case, cast, literal_column

from chassis.data.database import Database
from chassis.data.keyset import Expression
from chassis.data.listings import Listing, Selection, Start
from chassis.data.queries import Row
from chassis.data.totals import Total

SORTED_ROWS = 1000


class RankedListing(Listing):
    """A listing in which rows that meet the first of `ranks` come first, then those that meet the second, and so on.

    Each rank's condition implies the next one's, and the last one's implies the filter `matches`; rows that meet only
    that filter come last. Within a rank, rows are in the order of `order_by`. A list of up to `sorted_rows` is sorted.
    A longer one is read rank by rank, as far as the page reaches, so that an index returns the rows in order and none
    are sorted. Both ways return the same list.
    """

    def __init__(
        self,
        statement: Select[*tuple[Any, ...]],
        *,
        matches: str,
        ranks: Sequence[ColumnElement[bool]],
        order_by: Sequence[Expression],
        filters: Mapping[str, ColumnElement[bool]],
        selective: Collection[str],
        sorted_rows: int = SORTED_ROWS,
    ) -> None:
        numbered = list(zip(range(len(ranks), 0, -1), ranks, strict=True))
        rank = case(*((condition, number) for number, condition in numbered), else_=0)
        super().__init__(statement, order_by=(rank.desc(), *order_by), filters=filters, selective=selective)
        self._sorted_rows = sorted_rows
        rank_column = self._keyset.columns()[0].name
        self._by_rank: list[tuple[int, Listing]] = []
        above: list[ColumnElement[bool]] = []
        for number, condition in [*numbered, (0, filters[matches])]:
            # A single condition for the match: the planner would treat several as independent, and misestimate them.
            alone = statement.where(*(better.is_not(True) for better in above)).add_columns(
                cast(literal_column(str(number)), Integer).label(rank_column)
            )
            within = {**filters, matches: condition}
            listing = Listing(alone, order_by=order_by, filters=within, selective=selective)
            self._by_rank.append((number, listing))
            above = [condition]

    async def _page(
        self, database: Database, selection: Selection, start: Start, limit: int
    ) -> tuple[list[Row], Total]:
        total = start.total or await self._total(database, selection)
        # Rows that a page number skips are read too, so far down the list sorting is the faster way again.
        sorts = total.rows <= self._sorted_rows or start.offset > self._sorted_rows
        read = self.rows if sorts else self._rank_by_rank
        return await read(database, selection, start, limit + 1), total

    async def _rank_by_rank(
        self, database: Database, selection: Selection, start: Start, at_most: int
    ) -> list[Row]:
        rows: list[Row] = []
        position, offset = start.position, start.offset
        for number, listing in self._by_rank:
            if position and number > position[0]:
                continue
            behind = position[1:] if position and number == position[0] else None
            found = await listing.rows(database, selection, Start(behind, offset), at_most - len(rows))
            rows += found
            if len(rows) == at_most:
                break
            if found:
                offset = 0
            elif offset:
                offset -= await listing.totals(selection).count(database, selection.values, offset)
        return rows
