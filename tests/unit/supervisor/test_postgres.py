"""The embedded PostgreSQL's set-up."""

from pathlib import Path

import psycopg

from tests import parts


async def test_a_set_up_that_was_cut_short_is_begun_anew(tmp_path: Path) -> None:
    half = tmp_path / "postgres.new"
    half.mkdir()
    (half / "PG_VERSION").touch()
    async with (
        parts.running_postgres(tmp_path) as url,
        await psycopg.AsyncConnection.connect(url) as connection,
    ):
        assert await (await connection.execute("SELECT 1")).fetchone() == (1,)
    assert not half.exists()


async def test_it_does_not_run_as_root_and_is_private(tmp_path: Path) -> None:
    async with (
        parts.running_postgres(tmp_path) as url,
        await psycopg.AsyncConnection.connect(url) as connection,
    ):
        durable = await (await connection.execute("SHOW fsync")).fetchone()
    assert durable == ("on",)
    assert (tmp_path / "postgres").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "postgres").stat().st_uid != 0
