"""Listings: pages, cursors, totals, and what hostile callers send."""

import base64
import datetime as dt
import uuid
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import bindparam, insert, select, text

from chassis.core import InvalidArgument
from chassis.data import Database, Listing, RankedListing, totals
from tests.service.chassis.things import Thing

NEWEST = Listing(
    select(Thing.id, Thing.name, Thing.rank),
    order_by=(Thing.created_at.desc(), Thing.id.desc()),
    filters={"rank": Thing.rank == bindparam("rank"), "name": Thing.name == bindparam("name")},
)
BY_NAME = Listing(select(Thing.id, Thing.name), order_by=(Thing.name.asc(), Thing.rank.desc(), Thing.id))
BY_NAME_DOWN = Listing(select(Thing.id, Thing.name), order_by=(Thing.name.desc(), Thing.id))
BY_NAME_ALONE = Listing(select(Thing.id, Thing.name), order_by=(Thing.name.asc(), Thing.id.asc()))
BY_RANK = Listing(select(Thing.id, Thing.rank), order_by=(Thing.rank.desc(), Thing.id.asc()))
SCOPED = Listing(select(Thing.id).where(Thing.rank >= bindparam("least")), order_by=(Thing.id,))


def by_rank(sorted_rows: int) -> RankedListing:
    return RankedListing(
        select(Thing.id, Thing.name, Thing.rank),
        matches="least",
        ranks=(Thing.rank >= bindparam("best"), Thing.rank >= bindparam("good")),
        order_by=(Thing.created_at.desc(), Thing.id.desc()),
        filters={"least": Thing.rank >= bindparam("least"), "name": Thing.name == bindparam("name")},
        selective=("least",),
        sorted_rows=sorted_rows,
    )


def asked(page: int = 0, limit: int = 0, cursor: str = "") -> Any:
    return SimpleNamespace(page=page, limit=limit, cursor=cursor)


async def _fill(database: Database, count: int) -> None:
    start = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    rows = [
        {
            "id": uuid.uuid4(),
            "name": f"n{n % 5}" if n % 3 else None,
            "rank": n % 7,
            "created_at": start + dt.timedelta(seconds=n // 2),
            "version": 1,
        }
        for n in range(count)
    ]
    async with database.unit_of_work() as work:
        await work.execute(insert(Thing), rows)


async def _walk(listing: Listing, database: Database, limit: int, **options: Any) -> list[Any]:
    rows: list[Any] = []
    cursor = ""
    while True:
        page = await listing.fetch(database, asked(cursor=cursor, limit=limit), **options)
        rows += page.rows
        cursor = page.meta.next_cursor
        if not cursor:
            return rows


@pytest.mark.parametrize(
    "listing",
    [NEWEST, BY_NAME, BY_NAME_DOWN, BY_NAME_ALONE, BY_RANK],
    ids=["newest", "nulls-last", "nulls-first", "nulls one way", "both ways"],
)
async def test_cursors_walk_through_the_same_rows_in_the_same_order_as_one_query(
    database: Database, listing: Listing
):
    await _fill(database, 100)
    whole = (await listing.fetch(database, asked(limit=100))).rows
    assert len({row.id for row in whole}) == 100
    assert [row.id for row in await _walk(listing, database, 7)] == [row.id for row in whole]


async def test_pages_by_number_cover_the_list_too(database: Database):
    await _fill(database, 45)
    pages = [await NEWEST.fetch(database, asked(page=number, limit=20)) for number in (1, 2, 3)]
    assert [len(page.rows) for page in pages] == [20, 20, 5]
    assert len({row.id for page in pages for row in page.rows}) == 45
    assert [(page.meta.total, page.meta.page, page.meta.limit) for page in pages] == [
        (45, 1, 20), (45, 2, 20), (45, 3, 20)
    ]  # fmt: skip
    assert not pages[2].meta.next_cursor


async def test_a_cursor_is_stable_while_rows_are_inserted(database: Database):
    await _fill(database, 10)
    first = await NEWEST.fetch(database, asked(limit=5))
    async with database.unit_of_work() as work:
        work.add(Thing(name="newer than all"))
    second = await NEWEST.fetch(database, asked(limit=100, cursor=first.meta.next_cursor))
    assert len(second.rows) == 5
    assert not {row.id for row in first.rows} & {row.id for row in second.rows}


async def test_only_given_filters_are_applied(database: Database):
    await _fill(database, 70)
    assert (await NEWEST.fetch(database, asked(), filters={"rank": 3})).meta.total == 10
    assert (await NEWEST.fetch(database, asked(), filters={"rank": 0, "name": ""})).meta.total == 10
    assert (await NEWEST.fetch(database, asked(), filters={"rank": None, "name": None})).meta.total == 70
    both = await NEWEST.fetch(database, asked(), filters={"rank": 3, "name": "n0"})
    assert {(row.rank, row.name) for row in both.rows} == {(3, "n0")}


async def test_the_scope_of_a_list_is_part_of_its_cursors(database: Database):
    await _fill(database, 70)
    assert len(await _walk(SCOPED, database, 9, scope={"least": 6})) == 10
    cursor = (await SCOPED.fetch(database, asked(limit=2), scope={"least": 6})).meta.next_cursor
    with pytest.raises(InvalidArgument, match="CURSOR_INVALID"):
        await SCOPED.fetch(database, asked(cursor=cursor), scope={"least": 0})


@pytest.mark.parametrize(
    ("request_", "limit"),
    [(asked(), 20), (asked(limit=1), 1), (asked(limit=100), 100), (asked(limit=2**31 - 1), 100)],
)
async def test_the_limit_has_a_default_and_a_maximum(database: Database, request_: Any, limit: int):
    await _fill(database, 120)
    page = await NEWEST.fetch(database, request_)
    assert (len(page.rows), page.meta.limit) == (limit, limit)


@pytest.mark.parametrize(
    "request_", [asked(page=-1), asked(limit=-1), asked(page=2, cursor="x")], ids=["page", "limit", "both"]
)
async def test_numbers_that_make_no_sense_are_refused(database: Database, request_: Any):
    with pytest.raises(InvalidArgument, match="VALIDATION_FAILED"):
        await NEWEST.fetch(database, request_)


async def test_a_page_far_behind_the_end_is_empty(database: Database):
    await _fill(database, 3)
    page = await NEWEST.fetch(database, asked(page=10**9, limit=100))
    assert (page.rows, page.meta.total, page.meta.page) == ([], 3, 10**9)


def _flipped(cursor: str) -> str:
    raw = bytearray(base64.urlsafe_b64decode(cursor + "=="))
    raw[-3] ^= 1
    return base64.urlsafe_b64encode(bytes(raw)).decode().rstrip("=")


async def test_a_cursor_that_is_not_this_list_s_own_is_refused(database: Database):
    await _fill(database, 30)
    cursor = (await NEWEST.fetch(database, asked())).meta.next_cursor
    other = (await BY_NAME.fetch(database, asked())).meta.next_cursor
    bad = [_flipped(cursor), cursor[:-4], cursor + "A", other, "x", "é", "A" * 5000, "====", "\x00"]
    for attempt in bad:
        with pytest.raises(InvalidArgument, match="CURSOR_INVALID"):
            await NEWEST.fetch(database, asked(cursor=attempt))
    with pytest.raises(InvalidArgument, match="CURSOR_INVALID"):
        await NEWEST.fetch(database, asked(cursor=cursor), filters={"rank": 1})


async def test_a_total_is_counted_for_the_first_page_and_comes_along_in_its_cursors(
    database: Database, monkeypatch: pytest.MonkeyPatch
):
    await _fill(database, 30)
    first = await NEWEST.fetch(database, asked(limit=10))

    async def count(*_: Any) -> int:
        pytest.fail("counted again")

    monkeypatch.setattr(totals.Totals, "of", count)
    second = await NEWEST.fetch(database, asked(limit=10, cursor=first.meta.next_cursor))
    third = await NEWEST.fetch(database, asked(limit=10, cursor=second.meta.next_cursor))
    assert [page.meta.total for page in (first, second, third)] == [30, 30, 30]


async def test_a_page_is_one_query_with_its_total_or_without(
    database: Database, monkeypatch: pytest.MonkeyPatch
):
    await _fill(database, 30)
    queries: list[str] = []
    run = Database.all

    async def counting(self: Database, query: Any, **parameters: Any) -> list[Any]:
        queries.append(query.sql)
        return await run(self, query, **parameters)

    monkeypatch.setattr(Database, "all", counting)
    page = await NEWEST.fetch(database, asked(limit=10))
    assert (len(queries), page.meta.total) == (1, 30)
    await NEWEST.fetch(database, asked(limit=10, cursor=page.meta.next_cursor))
    assert len(queries) == 2
    assert "count(" not in queries[1]
    none = await NEWEST.fetch(database, asked(limit=10), filters={"name": "nobody"})
    assert (len(queries), none.meta.total) == (3, 0)


async def test_of_more_estimates_than_are_kept_the_oldest_goes(
    database: Database, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(totals, "_ESTIMATES_KEPT", 2)
    kept = totals.Totals(select(Thing.id).where(Thing.rank >= bindparam("least")), prepare=True)
    for least in (1, 2, 3):
        await kept.settled(database, {"least": least}, totals.EXACT_TOTAL + 1)
    assert [kept.remembered(database, {"least": least}) is not None for least in (1, 2, 3)] == [
        False,
        True,
        True,
    ]


async def test_an_estimate_is_made_anew_after_a_while_and_for_other_values(database: Database):
    await _fill_many(database, 30_000)
    now = 0.0
    counted = totals.Totals(
        select(Thing.id).where(Thing.rank == bindparam("rank")), prepare=True, clock=lambda: now
    )
    odd = await counted.of(database, {"rank": 1})
    assert odd.is_estimate
    assert await counted.of(database, {"rank": 7}) != odd
    async with database.unit_of_work() as work:
        await work.execute(text("DELETE FROM things"))
    assert await counted.of(database, {"rank": 1}) == odd
    now = 11.0
    assert (await counted.of(database, {"rank": 1})).rows == 0


@pytest.mark.parametrize("sorted_rows", [1000, 0], ids=["sorted", "rank by rank"])
async def test_what_matches_best_comes_first_however_the_list_is_read(database: Database, sorted_rows: int):
    listing = by_rank(sorted_rows)
    await _fill(database, 90)
    values = {"filters": {"least": {"best": 5, "good": 3, "least": 0}}}
    whole = (await listing.fetch(database, asked(limit=100), **values)).rows
    newest = [row.id for row in (await NEWEST.fetch(database, asked(limit=100))).rows]
    ranks = [2 if row.rank >= 5 else 1 if row.rank >= 3 else 0 for row in whole]
    assert ranks == sorted(ranks, reverse=True)
    assert set(ranks) == {0, 1, 2}
    for rank in (0, 1, 2):
        within = [row.id for row, at in zip(whole, ranks, strict=True) if at == rank]
        assert within == [thing for thing in newest if thing in within]
    for limit in (1, 4, 89):
        walked = await _walk(listing, database, limit, **values)
        assert [row.id for row in walked] == [row.id for row in whole]
    pages = [await listing.fetch(database, asked(page=number, limit=20), **values) for number in range(1, 7)]
    assert [row.id for page in pages for row in page.rows] == [row.id for row in whole]
    assert {page.meta.total for page in pages} == {90}


async def test_a_rank_that_nothing_has_is_passed_over(database: Database):
    listing = by_rank(sorted_rows=0)
    await _fill(database, 30)
    values = {"filters": {"least": {"best": 100, "good": 100, "least": 0}}}
    whole = await listing.fetch(database, asked(limit=100), **values)
    second = await listing.fetch(database, asked(page=2, limit=20), **values)
    assert [row.id for row in second.rows] == [row.id for row in whole.rows[20:]]
    assert len(whole.rows) == 30


async def _fill_many(database: Database, count: int) -> None:
    async with database.unit_of_work() as work:
        insertion = (
            "INSERT INTO things (id, rank) SELECT gen_random_uuid(), n % 2 FROM generate_series(1, :n) n"
        )
        await work.execute(text(insertion), {"n": count})
    async with database.connection() as connection:
        await connection.execute("ANALYZE things")


async def test_a_total_beyond_ten_thousand_is_an_estimate(database: Database):
    await _fill_many(database, 30_000)
    page = await NEWEST.fetch(database, asked())
    assert page.meta.total_is_estimate
    assert 25_000 < page.meta.total < 35_000
    half = await NEWEST.fetch(database, asked(), filters={"rank": 1})
    assert half.meta.total_is_estimate
    assert 12_000 < half.meta.total < 18_000
    with pytest.raises(InvalidArgument, match="VALIDATION_FAILED"):
        await NEWEST.fetch(database, asked(page=10**9))
