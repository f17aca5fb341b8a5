"""Migrations: the chassis's own tables have a version of their own, in old databases and in new ones."""

import asyncio
import pathlib
from collections.abc import Awaitable, Callable

import psycopg
import pytest
from alembic.script import ScriptDirectory

from chassis.data import migrations
from tests.service.chassis.things import MIGRATIONS

SERVICES = pathlib.Path(__file__).parents[3] / "services"
CHASSIS_TABLES = {"outbox", "inbox", "inbox_failures", "idempotency_keys", "chassis_version"}


async def rows(url: str, statement: str) -> list[tuple[object, ...]]:
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        return await (await connection.execute(statement)).fetchall()


async def versions(url: str) -> tuple[object, object]:
    """How far the chassis's and the service's revisions were run."""
    (chassis,) = await rows(url, "SELECT version_num FROM chassis_version")
    (service,) = await rows(url, "SELECT version_num FROM alembic_version")
    return chassis[0], service[0]


async def columns(url: str) -> set[tuple[object, ...]]:
    statement = """
        SELECT table_name, column_name, data_type, is_nullable, column_default
        FROM information_schema.columns WHERE table_schema = 'public'
        """
    return set(await rows(url, statement))


async def migrate(url: str, folder: pathlib.Path = MIGRATIONS) -> None:
    await asyncio.to_thread(migrations.upgrade, "things", url, folder)


def newest() -> str:
    return max(name for name, _ in migrations.CHASSIS.scripts())[:4]


async def made_by_its_service(url: str) -> None:
    """A database from before the chassis had revisions: the service's first one made all tables."""
    first = min(migrations.CHASSIS.scripts())[1]
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        await connection.execute(first)
        await connection.execute("DROP TABLE chassis_version")
        await connection.execute("""
            CREATE TABLE things (
                id uuid PRIMARY KEY,
                name text,
                rank integer NOT NULL DEFAULT 0,
                created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
                version integer NOT NULL DEFAULT 1
            )
            """)
        await connection.execute("CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY)")
        await connection.execute("INSERT INTO alembic_version VALUES ('0001')")
        await connection.execute("INSERT INTO inbox VALUES ('mail', gen_random_uuid())")


async def test_a_new_database_gets_the_chassis_s_tables_and_the_service_s(database_url: str):
    await migrate(database_url)
    assert await versions(database_url) == (newest(), "0001")
    assert {table for table, *_ in await columns(database_url)} >= CHASSIS_TABLES | {"things"}


async def test_a_database_whose_service_made_the_tables_keeps_its_rows_and_goes_on_from_there(
    database_url: str, migrated_elsewhere: str
):
    await made_by_its_service(database_url)
    await migrate(database_url)
    assert await versions(database_url) == (newest(), "0001")
    assert await rows(database_url, "SELECT consumer FROM inbox") == [("mail",)]
    assert await columns(database_url) == await columns(migrated_elsewhere)


@pytest.fixture
async def migrated_elsewhere(new_database: Callable[[], Awaitable[str]]) -> str:
    """A new database with all revisions."""
    url = await new_database()
    await migrate(url)
    return url


async def test_a_change_to_the_chassis_s_tables_is_no_revision_of_a_service(
    database_url: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
    await migrate(database_url)
    later = tmp_path / "migrations"
    later.mkdir()
    for file in migrations.CHASSIS.folder.glob("0*.py"):
        (later / file.name).write_text(file.read_text())
    (later / "9999_later.py").write_text(
        "from alembic import op\n"
        f"revision, down_revision = '9999', '{newest()}'\n"
        "def upgrade(): op.execute('ALTER TABLE inbox ADD COLUMN noticed boolean')\n"
    )
    monkeypatch.setattr(migrations, "CHASSIS", migrations.Line(later, migrations.CHASSIS.version_table))
    await migrate(database_url)
    assert await versions(database_url) == ("9999", "0001")
    assert ("inbox", "noticed", "boolean", "YES", None) in await columns(database_url)


async def test_a_revision_that_fails_leaves_neither_the_chassis_s_tables_nor_the_service_s(
    database_url: str, tmp_path: pathlib.Path
):
    (tmp_path / "0001_broken.py").write_text(
        "from alembic import op\n"
        "revision, down_revision = '0001', None\n"
        "def upgrade(): op.execute('SELECT 1 / 0')\n"
    )
    with pytest.raises(Exception, match="division by zero"):
        await migrate(database_url, tmp_path)
    assert await columns(database_url) == set()


LINES = [migrations.CHASSIS, *map(migrations.Line, sorted(SERVICES.glob("*/migrations")))]


@pytest.mark.parametrize("line", LINES, ids=lambda line: line.folder.parent.name)
def test_each_revision_follows_another_and_has_the_number_of_its_file(line: migrations.Line):
    revisions = list(ScriptDirectory.from_config(line.configuration()).walk_revisions())
    numbers = [pathlib.Path(revision.path).name[:4] for revision in reversed(revisions)]
    assert numbers == [f"{number:04}" for number in range(1, len(revisions) + 1)]
    assert [revision.revision for revision in reversed(revisions)] == numbers


def test_every_revision_can_be_read_as_sql():
    scripts = dict(migrations.CHASSIS.scripts())
    assert "CREATE TABLE outbox" in scripts["0001_outbox_inbox_keys"]
    assert "chassis_version" in scripts["0001_outbox_inbox_keys"]
