"""A database server that dies while all connections to it are in use."""

import asyncio
import os
import pathlib
import signal
import uuid
from collections.abc import Callable

from sqlalchemy import bindparam, insert, select

from chassis.core import checkpoint
from chassis.data import Database, Prepared, Query, bulkheads, migrations
from chassis.rpc import failure
from meshctl.core.ports import Ports
from meshctl.mesh.parts import postgres
from tests import parts
from tests.patience import eventually
from tests.service.chassis.things import MIGRATIONS, Thing

ADD = Prepared(insert(Thing).values(id=bindparam("id"), name=bindparam("name")))
GET = Query(select(Thing.id).where(Thing.id == bindparam("id")))
# More than there are connections.
USERS_OF_EACH = 10
KILLS = 2
PATIENCE_SECONDS = 60.0


class User:
    """Writes and reads without end, whatever happens; counts the rounds that succeeded."""

    def __init__(self, database: Database, bulkhead: bulkheads.Bulkhead) -> None:
        self._database = database
        self._bulkhead = bulkhead
        self.rounds = 0
        self.refusals: set[str] = set()

    async def run(self) -> None:
        bulkheads.current.set(self._bulkhead)
        while True:
            checkpoint()
            try:
                await self._round()
                self.rounds += 1
            except Exception as error:  # noqa: BLE001 (which ones it may be is the test)
                self.refusals.add(failure.from_exception(error).reason)
            await asyncio.sleep(0.01)

    async def _round(self) -> None:
        new = uuid.uuid4()
        async with self._database.unit_of_work() as work:
            await work.run(ADD, id=new, name="kept")
            assert await work.one(GET, id=new) is not None
        assert await self._database.one(GET, id=new) is not None


async def use(url: str, kill: Callable[[], None]) -> list[User]:
    """Kills the server a few times while all connections are in use; returns once everybody was served after each."""
    async with Database(url, pool_size=16) as database, asyncio.timeout(PATIENCE_SECONDS):
        users = [User(database, kind) for kind in bulkheads.BULKHEADS for _ in range(USERS_OF_EACH)]
        tasks = [asyncio.create_task(user.run()) for user in users]
        try:
            await all_served(users)
            for _ in range(KILLS):
                kill()
                await all_served(users)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
    return users


async def all_served(users: list[User]) -> None:
    """Waits until each has had three more rounds: a first may still come from a server that is about to die."""
    before = [user.rounds for user in users]

    async def each_is() -> bool:
        return all(user.rounds >= count + 3 for user, count in zip(users, before, strict=True))

    await eventually(each_is)


async def test_nobody_waits_for_good_when_a_server_dies_with_all_its_connections_in_use(
    tmp_path: pathlib.Path,
):
    port = Ports().take()
    program = await parts.postgres_program(tmp_path, port, "password")
    async with parts.running(program, tmp_path) as server:

        def kill() -> None:
            assert server.pid is not None
            os.kill(server.pid, signal.SIGKILL)

        url = postgres.url(port, "password")
        await asyncio.to_thread(migrations.upgrade, "things", url, MIGRATIONS)
        users = await use(url, kill)
    assert set().union(*(user.refusals for user in users)) <= {"DEPENDENCY_UNAVAILABLE", "OVERLOADED"}
