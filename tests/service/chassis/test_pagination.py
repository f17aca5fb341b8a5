"""Listings: pages, cursors, totals, and what hostile callers send."""

import base64
import datetime as dt
import uuid
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import bindparam, insert, select, text

from chassis.core import InvalidArgument
from chassis.data import Database, Listing
from tests.service.chassis.things import Thing

NEWEST = Listing(
    select(Thing.id, Thing.name, Thing.rank),
    order_by=(Thing.created_at.desc(), Thing.id.desc()),
    filters={"rank": Thing.rank == bindparam("rank"), "name": Thing.name == bindparam("name")},
)
BY_NAME = Listing(select(Thing.id, Thing.name), order_by=(Thing.name.asc(), Thing.rank.desc(), Thing.id))
BY_NAME_DOWN = Listing(select(Thing.id, Thing.name), order_by=(Thing.name.desc(), Thing.id))
SCOPED = Listing(select(Thing.id).where(Thing.rank >= bindparam("least")), order_by=(Thing.id,))


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
    "listing", [NEWEST, BY_NAME, BY_NAME_DOWN], ids=["newest", "nulls-last", "nulls-first"]
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


async def test_a_total_beyond_ten_thousand_is_an_estimate(database: Database):
    async with database.unit_of_work() as work:
        await work.execute(
            text(
                "INSERT INTO things (id, rank) SELECT gen_random_uuid(), n % 2 FROM generate_series(1, 30000) n"
            )
        )
    async with database.connection() as connection:
        await connection.execute("ANALYZE things")
    page = await NEWEST.fetch(database, asked())
    assert page.meta.total_is_estimate
    assert 25_000 < page.meta.total < 35_000
    half = await NEWEST.fetch(database, asked(), filters={"rank": 1})
    assert half.meta.total_is_estimate
    assert 12_000 < half.meta.total < 18_000
    with pytest.raises(InvalidArgument, match="VALIDATION_FAILED"):
        await NEWEST.fetch(database, asked(page=10**9))
