"""The database: prepared reads, transactions, limits, cancellation, and a server that restarts."""

import asyncio
import os
import pathlib
import signal
import uuid
from contextlib import suppress
from typing import Any

import psycopg
import pytest
from protomesh.ordering.v1.order_pb2 import Order
from protomesh.ordering.v1.ordering_events_pb2 import OrderPlaced
from sqlalchemy import bindparam, func, insert, select, text, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm.exc import StaleDataError

from chassis.data import Database, Prepared, Query, UnitOfWork, migrations
from chassis.rpc import failure
from meshctl.core.ports import Ports
from meshctl.mesh.parts import postgres
from meshctl.mesh.process import Process
from tests import parts
from tests.patience import eventually
from tests.service.chassis.things import MIGRATIONS, Thing, happened, scalar

GET_THING = Query(
    select(Thing.id, Thing.name, Thing.rank, Thing.created_at).where(Thing.id == bindparam("id"))
)
ALL_NAMES = Query(select(Thing.name))
SLEEP = Query(select(func.pg_sleep(30)))
RAISE = Prepared(
    update(Thing)
    .where(Thing.name == bindparam("called"))
    .values(rank=Thing.rank + bindparam("by"))
    .returning(Thing.name, Thing.rank)
)
ADD = Prepared(insert(Thing).values(id=bindparam("id"), name=bindparam("name")))
PROCESS = Prepared(select(func.pg_backend_pid().label("id")))
_SLEEPING = """
    SELECT count(*) FROM pg_stat_activity
    WHERE state = 'active' AND query LIKE '%pg_sleep(%' AND pid <> pg_backend_pid()
    """


async def _add(database: Database, **values: object) -> Thing:
    async with database.unit_of_work() as work:
        thing = Thing(**values)
        work.add(thing)
    return thing


async def _sleeping(watcher: psycopg.AsyncConnection[Any]) -> bool:
    row = await (await watcher.execute(_SLEEPING)).fetchone()
    return row is not None and row[0] > 0


async def _rename(work: UnitOfWork, thing: Thing, name: str) -> None:
    found = await work.get(Thing, thing.id)
    assert found is not None
    found.name = name


async def test_a_prepared_read_answers_rows_with_named_columns(database: Database):
    thing = await _add(database, name="lamp", rank=3)
    row: Any = await database.one(GET_THING, id=str(thing.id))
    assert (row.id, row.name, row.rank) == (thing.id, "lamp", 3)
    assert row.created_at.utcoffset().total_seconds() == 0
    assert await database.one(GET_THING, id=uuid.uuid4()) is None


def test_a_query_whose_text_depends_on_its_values_is_refused_at_its_definition():
    with pytest.raises(TypeError, match="any_"):
        Query(select(Thing.id).where(Thing.rank.in_([1, 2])))


async def test_a_connection_keeps_no_rows_once_they_are_read(database: Database):
    """A large result would stay in memory until the next statement on the same connection."""
    async with database.unit_of_work() as work:
        work.add(Thing(name="large"))
        assert len(await work.all(ALL_NAMES)) == 1
        connection = work._connection
        assert connection is not None
        assert connection.statements.pgresult is not None
        assert connection.statements.pgresult.ntuples == 0
        assert [row.name for row in await work.all(ALL_NAMES)] == ["large"]


async def test_a_failed_unit_of_work_leaves_neither_rows_nor_events(database: Database):
    with pytest.raises(LookupError):  # noqa: PT012 (what fails is the block)
        async with database.unit_of_work() as work:
            work.add(Thing(name="lost"))
            work.publish(happened(), version=1)
            await work.flush()
            raise LookupError
    assert await scalar(database, "SELECT (SELECT count(*) FROM things) + (SELECT count(*) FROM outbox)") == 0


@pytest.mark.parametrize("used", ["prepared", "session"])
async def test_what_failed_is_told_even_when_nothing_can_be_rolled_back_any_more(
    database: Database, used: str
):
    with pytest.raises(LookupError):  # noqa: PT012 (what fails is the block)
        async with database.unit_of_work() as work:
            if used == "session":
                await work.save(Thing(name="lost"))
            row = await work.one(PROCESS)
            assert row is not None
            async with database.connection("keys") as other:
                await other.execute("SELECT pg_terminate_backend(%s, 1000)", (row.id,))
            raise LookupError
    assert await scalar(database, "SELECT count(*) FROM things") == 0


async def test_one_transaction_holds_what_both_paths_write_whichever_comes_first(migrated_url: str):
    """In a process that has not used SQLAlchemy yet: it must not ask the server anything of its own."""
    async with Database(migrated_url, pool_size=3) as database:
        with suppress(LookupError):
            async with database.unit_of_work() as work:
                await work.run(ADD, id=uuid.uuid4(), name="prepared")
                await work.save(Thing(name="entity"))
                assert await work.run(RAISE, called="entity", by=1) == 1
                raise LookupError
        assert await scalar(database, "SELECT count(*) FROM things") == 0
        async with database.unit_of_work() as work:
            await work.run(ADD, id=uuid.uuid4(), name="prepared")
            await work.save(Thing(name="entity"))
        assert await scalar(database, "SELECT count(*) FROM things") == 2


async def test_a_clean_exit_commits_rows_and_events_together(database: Database):
    async with database.unit_of_work() as work:
        work.add(Thing(name="kept"))
        work.publish(happened("one"), version=7)
    row = await scalar(database, "SELECT row(subject, aggregate_type, aggregate_version)::text FROM outbox")
    assert row == "(ordering.order.cancelled.v1.one,ordering.order,7)"
    assert await scalar(database, "SELECT count(*) FROM things") == 1


async def test_an_event_without_a_version_is_refused(database: Database):
    async with database.unit_of_work() as work:
        with pytest.raises(TypeError, match="version"):
            work.publish(happened())  # type: ignore[call-arg]
    assert await scalar(database, "SELECT count(*) FROM outbox") == 0


async def test_personal_data_never_enters_the_outbox(database: Database):
    async with database.unit_of_work() as work:
        work.publish(
            OrderPlaced(order_id="one", order=Order(id="one", shipping_note="Ring twice")), version=1
        )
    payload = await scalar(database, "SELECT payload FROM outbox")
    assert OrderPlaced.FromString(payload).order == Order(id="one")


async def test_who_changes_a_row_that_has_moved_on_is_told_so(database: Database):
    thing = await _add(database, name="contested")
    with pytest.raises(StaleDataError) as raised:  # noqa: PT012 (what fails is the block's end)
        async with database.unit_of_work() as late:
            await _rename(late, thing, "second")
            async with database.unit_of_work() as early:
                await _rename(early, thing, "first")
    assert failure.from_exception(raised.value).reason == "CONFLICT"
    assert await scalar(database, "SELECT name FROM things") == "first"


@pytest.mark.parametrize("path", ["read", "session"])
async def test_cancelling_a_task_cancels_its_statement_and_returns_its_connection(
    migrated_url: str, path: str
):
    async with Database(migrated_url, name="one", pool_size=1) as database:

        async def sleep() -> None:
            if path == "read":
                await database.one(SLEEP)
            else:
                async with database.unit_of_work() as work:
                    await work.execute(text("SELECT pg_sleep(30)"))

        async with await psycopg.AsyncConnection.connect(migrated_url, autocommit=True) as watcher:
            task = asyncio.create_task(sleep())
            await eventually(lambda: _sleeping(watcher))
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()
            assert not await _sleeping(watcher)
        # The pool has one connection: it is back, and fit.
        assert await scalar(database, "SELECT 1") == 1
        async with database.unit_of_work() as work:
            work.add(Thing(name="after"))


async def test_a_statement_that_takes_too_long_ends_as_deadline_exceeded(database: Database):
    with pytest.raises(psycopg.errors.QueryCanceled) as raised:
        await database.one(SLEEP)
    assert failure.from_exception(raised.value).reason == "DEADLINE_EXCEEDED"


async def test_a_lock_that_is_not_given_ends_as_a_conflict(database: Database):
    thing = await _add(database)
    async with database.unit_of_work() as holder:
        await holder.get(Thing, thing.id, for_update=True)
        with pytest.raises(DBAPIError) as raised:
            async with database.unit_of_work() as waiter:
                await waiter.get(Thing, thing.id, for_update=True)
    assert failure.from_exception(raised.value).reason == "CONFLICT"


async def test_many_checkouts_leave_nothing_behind_on_a_connection(migrated_url: str):
    async with Database(migrated_url, pool_size=1) as database:
        for _ in range(20):
            async with database.unit_of_work() as work:
                await work.execute(text("SELECT 1"))
        async with database.connection() as connection:
            assert len(connection._notice_handlers) <= 1


async def test_a_restarted_server_is_found_again_and_meanwhile_answers_unavailable(tmp_path: pathlib.Path):
    port = Ports().take()
    program = await parts.postgres_program(tmp_path, port, "password")
    async with parts.running(program, tmp_path) as server:
        url = postgres.url(port, "password")
        await asyncio.to_thread(migrations.upgrade, "things", url, MIGRATIONS)
        async with Database(url, pool_size=4) as database:
            await asyncio.gather(*(_add(database, name=str(n)) for n in range(8)))
            seen = set()
            async with asyncio.timeout(60):
                restarted = asyncio.create_task(_killed_and_restarted(server))
                while not restarted.done():
                    try:
                        await _add(database, name="meanwhile")
                    except Exception as error:  # noqa: BLE001 (which ones it may be is the test)
                        seen.add(failure.from_exception(error).reason)
                    await asyncio.sleep(0.05)
            # A caller who waits for a connection may get one of the new server, and notice nothing.
            assert seen <= {"DEPENDENCY_UNAVAILABLE"}
            # Every stale connection is replaced without a caller noticing.
            kept = "SELECT count(*) FROM things WHERE name <> 'meanwhile'"
            results = await asyncio.gather(*(scalar(database, kept) for _ in range(20)))
            assert set(results) == {8}


async def _killed_and_restarted(server: Process) -> None:
    """Returns once a new server accepts connections: a session of the old one may outlive it for a moment."""
    killed = server.pid
    assert killed is not None
    os.kill(killed, signal.SIGKILL)

    async def restarted() -> bool:
        return server.pid != killed and not (await server.health()).complaint

    await eventually(restarted)


async def test_a_prepared_change_sees_what_the_session_changed_and_is_part_of_the_transaction(
    database: Database,
):
    async with database.unit_of_work() as work:
        work.add(Thing(name="lamp", rank=1))
        assert await work.one(RAISE, called="lamp", by=2) == ("lamp", 3)
        assert await work.one(RAISE, called="chair", by=2) is None
        assert await work.run(ADD, id=uuid.uuid4(), name="table") == 1
    with suppress(ZeroDivisionError):
        async with database.unit_of_work() as work:
            await work.run(RAISE, called="lamp", by=100)
            raise ZeroDivisionError
    assert await scalar(database, "SELECT rank FROM things WHERE name = 'lamp'") == 3
    # What the model has as a constant stands in the statement.
    assert await scalar(database, "SELECT rank FROM things WHERE name = 'table'") == 0


def test_a_prepared_statement_that_would_miss_a_value_is_refused_when_it_is_defined():
    with pytest.raises(TypeError, match=r"things\.id needs a value"):
        Prepared(insert(Thing).values(name=bindparam("name")))


async def test_migrations_that_run_at_once_run_once(database_url: str):
    await asyncio.gather(
        *(asyncio.to_thread(migrations.upgrade, "things", database_url, MIGRATIONS) for _ in range(4))
    )
    async with Database(database_url) as database:
        assert await scalar(database, "SELECT version_num FROM alembic_version") == "0001"
