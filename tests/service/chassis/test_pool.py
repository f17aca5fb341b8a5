"""The pool: a cancelled call leaves every connection behind it, and nobody waits for one that cannot come in time."""

import asyncio
import os
import socket
import types
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Generator
from functools import partial
from typing import Any

import grpc
import pytest
from sqlalchemy import bindparam, insert, select

from chassis.data import Database, PoolBusy, Prepared, Query, bulkheads
from chassis.rpc import failure
from tests.service.chassis.things import Thing, happened, scalar

THINGS = Query(select(Thing.id))
ADD = Prepared(insert(Thing).values(id=bindparam("id"), name=bindparam("name")))
Way = Callable[[Database], Coroutine[Any, Any, None]]


async def read(database: Database) -> None:
    await database.all(THINGS)


async def write(database: Database) -> None:
    async with database.unit_of_work() as work:
        work.add(Thing(name="written"))


async def write_prepared(database: Database) -> None:
    async with database.unit_of_work() as work:
        await work.run(ADD, id=uuid.uuid4(), name="written")


async def write_and_publish(database: Database) -> None:
    async with database.unit_of_work() as work:
        await work.run(ADD, id=uuid.uuid4(), name="written")
        work.publish(happened(), version=1)


async def keep_books(database: Database) -> None:
    async with database.connection() as connection:
        await connection.execute("SELECT 1")


async def nothing(database: Database) -> None:
    """Leaves the pool as it is."""


async def have_news(database: Database) -> None:
    """The server has said something on the idle connection, as when it goes away: it is proved when it is taken."""
    async with database.connection() as connection:
        await connection.execute("LISTEN news")
    async with database.connection("keys") as other:
        await other.execute("NOTIFY news")


@pytest.mark.parametrize("cancellations", [1, 2])
@pytest.mark.parametrize("before", [nothing, have_news])
@pytest.mark.parametrize("way", [read, write, write_prepared, write_and_publish, keep_books])
async def test_a_cancellation_at_any_await_costs_the_pool_no_connection(
    migrated_url: str, way: Way, before: Way, cancellations: int
):
    async def at(place: int, database: Database) -> bool:
        await before(database)
        return await cancelled(way(database), place, cancellations)

    await at_every_await(migrated_url, at)


@pytest.mark.parametrize("way", [read, write, write_prepared, keep_books])
async def test_a_cancellation_in_line_for_a_connection_costs_none(migrated_url: str, way: Way):
    async def at(place: int, database: Database) -> bool:
        async with database.connection():
            task = asyncio.ensure_future(cancelled(way(database), place, 1))
            await asyncio.sleep(0)
        return await task

    await at_every_await(migrated_url, at)


async def at_every_await(url: str, at: Callable[[int, Database], Awaitable[bool]]) -> None:
    """Has `at` cancel a way at its first await, its second, and so on to its end; the one connection must survive."""
    async with Database(url, pool_size=1) as database:
        place = 0
        while await at(place, database):
            assert await scalar(database, "SELECT 1") == 1, f"lost at await {place}"
            place += 1
        assert place > 0
    # The first use of a database awaits more than the later ones.
    for place in range(30):
        async with Database(url, pool_size=1) as fresh:
            await at(place, fresh)
            assert await scalar(fresh, "SELECT 1") == 1, f"lost at await {place} of the first use"


async def cancelled(coroutine: Coroutine[Any, Any, None], place: int, times: int) -> bool:
    """Runs a coroutine in a task that is cancelled at that await of it, and the next; whether it came so far."""
    came: list[int] = []
    task = asyncio.ensure_future(_driven(coroutine, place, times, came))
    await asyncio.wait([task])
    return bool(came)


async def _driven(coroutine: Coroutine[Any, Any, None], place: int, times: int, came: list[int]) -> None:
    await _drive(coroutine, place, times, came)


@types.coroutine
def _drive(
    coroutine: Coroutine[Any, Any, None], place: int, times: int, came: list[int]
) -> Generator[Any, None, None]:
    step: Callable[[], Any] = partial(coroutine.send, None)
    number = 0
    while True:
        try:
            awaited = step()
        except StopIteration:
            return
        if place <= number < place + times:
            came.append(number)
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
        number += 1
        try:
            yield awaited
        except BaseException as error:  # noqa: BLE001 (a cancellation goes where the task waits)
            step = partial(coroutine.throw, error)
        else:
            step = partial(coroutine.send, None)


async def test_a_pool_that_is_used_up_is_overloaded_and_not_away(migrated_url: str):
    async with Database(migrated_url, pool_size=1) as database, database.connection():
        begin = asyncio.get_running_loop().time()
        with pytest.raises(PoolBusy) as raised:
            await read(database)
        assert asyncio.get_running_loop().time() - begin < 1.5
    answer = failure.from_exception(raised.value)
    assert (answer.code, answer.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")
    assert answer.retry_after


async def test_who_cannot_get_a_connection_in_time_is_told_at_once(migrated_url: str):
    """Uses took 0.4 s each lately, so the third in line would wait for more than its second."""
    async with Database(migrated_url, pool_size=1) as database:
        pool = database.bulkheads.pools["calls"]
        pool.mean_seconds = 0.4
        async with database.connection():
            waiting = [asyncio.ensure_future(read(database)) for _ in range(2)]
            await asyncio.sleep(0)
            async with asyncio.timeout(0.05):
                with pytest.raises(PoolBusy):
                    await read(database)
        await asyncio.gather(*waiting)


async def test_what_uses_take_is_learned(migrated_url: str):
    async with Database(migrated_url, pool_size=1) as database:
        pool = database.bulkheads.pools["calls"]
        for _ in range(30):
            async with database.connection():
                await asyncio.sleep(0.01)
        assert 0.005 < pool.mean_seconds < 0.1


@pytest.mark.parametrize("busy", ["calls", "background", "keys"])
async def test_no_kind_of_work_takes_the_connections_of_another(migrated_url: str, busy: bulkheads.Bulkhead):
    async with Database(migrated_url, pool_size=3) as database, database.connection(busy):
        for bulkhead in {*bulkheads.BULKHEADS} - {busy}:
            async with asyncio.timeout(0.5), database.connection(bulkhead) as connection:
                await connection.execute("SELECT 1")


def test_a_process_has_as_many_connections_as_its_setting_says():
    for total in (3, 10, 12, 200):
        assert sum(bulkheads.shares(total).values()) == total
        assert min(bulkheads.shares(total).values()) >= 1


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="only Linux can be asked for this bound")
async def test_a_server_that_vanished_is_noticed_within_seconds(database: Database):
    """No test can take the network away without rights, so it asks the kernel what it will do."""
    async with database.connection() as connection:
        own = socket.socket(fileno=os.dup(connection.fileno()))
        with own:
            unanswered = own.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
            idle = own.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE)
            interval = own.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL)
    assert 0 < unanswered <= 10_000
    assert 0 < idle + interval <= 10
