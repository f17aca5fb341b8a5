"""What services declare their tables on: versions, what somebody owns, and what a broken constraint means."""

import asyncio
import uuid
from types import SimpleNamespace
from uuid import UUID

import pytest
from google.protobuf import message_factory
from sqlalchemy.orm import Mapped
from sqlalchemy.orm.exc import StaleDataError

from chassis.core import AlreadyExists, NotFound, uuid7
from chassis.data import CALLER, Database, Refusal, Refusals, Resource, Scoped
from tests import protos

[FILE] = protos.compiled(
    "owned.proto",
    """
    syntax = "proto3";
    package owned.v1;
    message UpdateRequest {
      string id = 1;
      optional string title = 2;
      optional string parent_id = 3;
      optional string colour = 4;
    }
    """,
)
UpdateRequest = message_factory.GetMessageClass(FILE.message_types_by_name["UpdateRequest"])

TABLE = """
    CREATE TABLE belongings (
        id uuid PRIMARY KEY,
        owner_id uuid NOT NULL,
        parent_id uuid,
        title text NOT NULL CONSTRAINT belongings_title_key UNIQUE,
        version bigint NOT NULL,
        created_at timestamptz NOT NULL,
        updated_at timestamptz NOT NULL
    )
    """


class Belonging(Resource):
    __tablename__ = "belongings"

    owner_id: Mapped[UUID]
    parent_id: Mapped[UUID | None]
    title: Mapped[str]


BELONGINGS = Scoped(Belonging, Belonging.owner_id == CALLER, missing=("BELONGING_NOT_FOUND", "None such."))
REFUSALS = Refusals(
    {"belongings_title_key": Refusal(AlreadyExists, "TITLE_TAKEN", "It has this title.", metadata=("title",))}
)
ALICE, BOB = uuid7(), uuid7()


@pytest.fixture
async def owned(database: Database) -> Database:
    async with database.connection() as connection:
        await connection.execute(TABLE)
    return database


async def add(database: Database, title: str, owner_id: UUID = ALICE) -> Belonging:
    belonging = Belonging.new(uuid7(), title=title, owner_id=owner_id)
    async with database.unit_of_work() as work:
        await work.save(belonging)
    return belonging


async def test_a_resource_moves_its_version_on_with_each_change_that_is_written(owned: Database):
    belonging = await add(owned, "Lamp")
    assert (belonging.version, belonging.created_at) == (1, belonging.updated_at)
    async with owned.unit_of_work() as work:
        held = await BELONGINGS.lock(work, belonging.id, ALICE)
        assert not held.change(title="Lamp")
        assert held.change(title="Light")
        await work.save(held)
        assert held.version == 2
    row = await BELONGINGS.get(owned, str(belonging.id), ALICE)
    assert (row.title, row.version, row.updated_at > row.created_at) == ("Light", 2, True)


async def test_a_change_of_an_old_version_is_refused(owned: Database):
    belonging = await add(owned, "Lamp")
    async with owned.unit_of_work() as work:
        (await BELONGINGS.lock(work, belonging.id, ALICE)).change(title="Light")
    belonging.change(title="Torch")
    with pytest.raises(StaleDataError):
        async with owned.unit_of_work() as work:
            await work.save(belonging)


async def test_what_belongs_to_somebody_else_is_as_if_it_were_not_there(owned: Database):
    belonging = await add(owned, "Lamp")
    for wanted, caller in ((belonging.id, BOB), (uuid.uuid4(), ALICE)):
        with pytest.raises(NotFound, match="BELONGING_NOT_FOUND"):
            await BELONGINGS.get(owned, wanted, caller)
        with pytest.raises(NotFound, match="BELONGING_NOT_FOUND"):
            async with owned.unit_of_work() as work:
                await BELONGINGS.lock(work, wanted, caller)


async def test_a_stranger_does_not_wait_for_a_row_that_its_owner_holds(owned: Database):
    belonging = await add(owned, "Lamp")
    async with owned.unit_of_work() as work:
        await BELONGINGS.lock(work, belonging.id, ALICE)
        with pytest.raises(NotFound):
            async with owned.unit_of_work() as other:
                await BELONGINGS.lock(other, belonging.id, BOB)


async def test_a_row_that_changes_hands_while_somebody_waits_for_it_is_not_theirs_any_more(owned: Database):
    belonging = await add(owned, "Lamp")

    async def wait_for_it() -> None:
        async with owned.unit_of_work() as other:
            await BELONGINGS.lock(other, belonging.id, ALICE)

    async with owned.unit_of_work() as work:
        held = await BELONGINGS.lock(work, belonging.id, ALICE)
        waiting = asyncio.create_task(wait_for_it())
        await blocked(owned)
        held.change(owner_id=BOB)
    with pytest.raises(NotFound):
        await waiting


async def blocked(database: Database) -> None:
    """Returns once a statement waits for a lock."""
    async with asyncio.timeout(5), database.connection() as connection:
        while True:
            found = await connection.execute("SELECT count(*) FROM pg_locks WHERE NOT granted")
            if (await found.fetchone() or (0,))[0]:
                return


async def test_a_list_holds_the_callers_own_newest_first(owned: Database):
    first, second = await add(owned, "Lamp"), await add(owned, "Chair")
    await add(owned, "Table", BOB)
    page = await BELONGINGS.fetch(owned, SimpleNamespace(page=0, limit=0, cursor=""), ALICE)
    assert [row.id for row in page.rows] == [second.id, first.id]
    assert page.meta.total == 2


async def test_a_deleted_row_is_gone(owned: Database):
    belonging = await add(owned, "Lamp")
    async with owned.unit_of_work() as work:
        await work.delete(await BELONGINGS.lock(work, belonging.id, ALICE))
    with pytest.raises(NotFound):
        await BELONGINGS.get(owned, belonging.id, ALICE)


async def test_a_broken_constraint_is_told_by_its_reason(owned: Database):
    await add(owned, "Lamp")
    with pytest.raises(AlreadyExists) as raised, REFUSALS.told(title="Lamp"):
        await add(owned, "Lamp")
    assert (raised.value.reason, raised.value.metadata) == ("TITLE_TAKEN", {"title": "Lamp"})


async def test_a_constraint_that_nobody_declared_stays_a_fault_of_ours(owned: Database):
    belonging = await add(owned, "Lamp")
    with pytest.raises(Exception, match="belongings_pkey"), REFUSALS.told(title=""):
        async with owned.unit_of_work() as work:
            await work.save(Belonging.new(belonging.id, title="Other", owner_id=ALICE))


def test_a_request_gives_columns_their_values():
    parent = uuid7()
    assert Belonging.sent(UpdateRequest(id=str(uuid7()))) == {}
    assert Belonging.sent(UpdateRequest(title="", parent_id=str(parent))) == {
        "title": "",
        "parent_id": parent,
    }
    assert Belonging.sent(UpdateRequest(parent_id="")) == {"parent_id": None}
    given = uuid7()
    assert Belonging.values(UpdateRequest(id=str(given), title="A")) == {"id": given, "title": "A"}


def test_a_request_does_not_lose_what_has_no_column():
    request = UpdateRequest(colour="red")
    with pytest.raises(TypeError, match=r"UpdateRequest\.colour has no column in belongings"):
        Belonging.sent(request)
    assert Belonging.sent(request, without=("colour",)) == {}
