"""Totals of lists: counted as far as that is cheap, estimated beyond."""

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import BigInteger, Select, bindparam, func, select

from chassis.data.database import Database
from chassis.data.queries import Query

# Rows that are counted one by one; beyond that, the planner's estimate is used.
EXACT_TOTAL = 10_000
# The largest number that fits the field's 32 bits: a 64-bit number would be a string in JSON.
LARGEST_TOTAL = 2**31 - 1
# How long an estimate is kept: counting up to the bound costs more than reading a page.
ESTIMATE_SECONDS = 10.0
_ESTIMATES_KEPT = 256

_AT_MOST = "total_at_most"
# The column of a list's rows that holds the count.
COUNTED = "list_total"


@dataclass(frozen=True, slots=True)
class Total:
    """The number of rows of a whole list."""

    rows: int
    is_estimate: bool = False


class Totals:
    """A counter of the rows that a SELECT finds."""

    def __init__(
        self,
        statement: Select[*tuple[Any, ...]],
        *,
        prepare: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        bounded = statement.limit(bindparam(_AT_MOST, type_=BigInteger, required=True)).subquery()
        count = select(func.count().label("rows")).select_from(bounded)
        # For the list's own query, so that the first page and the count take one round trip.
        self.column = count.scalar_subquery().label(COUNTED)
        self.bound = {_AT_MOST: EXACT_TOTAL + 1}
        self._count = Query(count, prepare=prepare)
        self._plan = Query(statement, prepare=prepare).explained()
        self._estimates: OrderedDict[object, tuple[float, Total]] = OrderedDict()
        self._clock = clock

    async def of(self, database: Database, values: dict[str, Any]) -> Total:
        """Returns the number of all rows: exact up to 10,000, then the planner's estimate, which may be 10 s old."""
        if remembered := self.remembered(database, values):
            return remembered
        return await self.settled(database, values, await self.count(database, values, EXACT_TOTAL + 1))

    async def settled(self, database: Database, values: dict[str, Any], counted: int) -> Total:
        """Returns the total for a number of counted rows: that number, or an estimate if the bound was reached."""
        if counted <= EXACT_TOTAL:
            return Total(counted)
        total = Total(min(max(counted, await self._estimate(database, values)), LARGEST_TOTAL), True)
        self._estimates[_key(database, values)] = self._clock() + ESTIMATE_SECONDS, total
        if len(self._estimates) > _ESTIMATES_KEPT:
            self._estimates.popitem(last=False)
        return total

    def remembered(self, database: Database, values: dict[str, Any]) -> Total | None:
        """Returns a recent estimate; None when there is none."""
        if not self._estimates:
            return None
        key = _key(database, values)
        until, total = self._estimates.get(key, (0.0, None))
        if total is not None and self._clock() >= until:
            del self._estimates[key]
            return None
        return total

    async def count(self, database: Database, values: dict[str, Any], at_most: int) -> int:
        """Counts the rows one by one, up to a bound."""
        row = await database.one(self._count, **values, **{_AT_MOST: at_most})
        return int(row.rows) if row else 0

    async def _estimate(self, database: Database, values: dict[str, Any]) -> int:
        row = await database.one(self._plan, **values)
        return int(row[0][0]["Plan"]["Plan Rows"]) if row else 0


def _key(database: Database, values: dict[str, Any]) -> object:
    return (database, *sorted((name, str(value)) for name, value in values.items()))
