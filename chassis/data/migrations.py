"""Migrations: numbered alembic revisions, first those of the chassis's own tables and then the service's.

Each of the two lines has a separate version, so that a change to the chassis's tables is one revision in
`chassis/data/schema` and none in any service. To run by hand: `python -m chassis.data.migrations catalog
postgresql://…`.
"""

import importlib.util
import io
import pathlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import NullPool, create_engine, make_url, text
from sqlalchemy.engine import Connection

_SCHEMA = pathlib.Path(__file__).with_name("schema")
# Any number, as long as all processes that migrate a database use the same one.
_LOCK = 0x70726F746F6D657368 & 0x7FFFFFFFFFFFFFFF
# Tables that exist without a version were created by the service's own first revision, in their first form.
_UNVERSIONED = "SELECT to_regclass('outbox') IS NOT NULL AND to_regclass('chassis_version') IS NULL"
_FIRST = "0001"


@dataclass(frozen=True)
class Line:
    """A line of revisions: a folder of numbered files, and the table that records which were run."""

    folder: pathlib.Path
    version_table: str = "alembic_version"

    def configuration(self, connection: Connection | None = None) -> Config:
        """Returns the configuration for alembic's commands."""
        config = Config(attributes={"connection": connection, "version_table": self.version_table})
        config.set_main_option("script_location", _escaped(_SCHEMA))
        config.set_main_option("version_locations", _escaped(self.folder))
        config.set_main_option("path_separator", "newline")
        return config

    def scripts(self) -> Iterator[tuple[str, str]]:
        """Yields each revision as its file name and the SQL that it runs."""
        config = self.configuration()
        for revision in ScriptDirectory.from_config(config).walk_revisions():
            config.output_buffer = buffer = io.StringIO()
            command.upgrade(config, f"{revision.down_revision or 'base'}:{revision.revision}", sql=True)
            yield pathlib.Path(revision.path).stem, buffer.getvalue()


CHASSIS = Line(_SCHEMA / "migrations", "chassis_version")


def upgrade(service: str, database_url: str, versions_dir: pathlib.Path | None = None) -> None:
    """Upgrades a database to the newest revisions; a second process that does so waits, then finds nothing to do.

    `versions_dir` is the folder of numbered files, by default the service's `migrations`. Raises LookupError
    when the service has none, and the driver's error when the database cannot be reached or a revision fails; all
    revisions run in one transaction, so that a failed run leaves nothing behind.
    """
    line = Line(versions_dir or _versions_of(service))
    engine = create_engine(make_url(database_url).set(drivername="postgresql+psycopg"), poolclass=NullPool)
    with engine.begin() as connection:
        # Held until the end of the transaction, so that a crash cannot leave the lock behind.
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        # While a migration waits for a table, every query behind it waits too, so it is better that it fails.
        connection.execute(text("SET LOCAL lock_timeout = '5s'"))
        connection.execute(text("SET LOCAL statement_timeout = '10min'"))
        if connection.scalar(text(_UNVERSIONED)):
            command.stamp(CHASSIS.configuration(connection), _FIRST)
        for each in (CHASSIS, line):
            command.upgrade(each.configuration(connection), "head")


def _versions_of(service: str) -> pathlib.Path:
    found = importlib.util.find_spec(f"services.{service}")
    for folder in (found.submodule_search_locations or ()) if found else ():
        if (versions := pathlib.Path(folder) / "migrations").is_dir():
            return versions
    raise LookupError(f"The service {service!r} has no migrations.")


def _escaped(path: pathlib.Path) -> str:
    return str(path).replace("%", "%%")  # alembic's settings interpolate


if __name__ == "__main__":
    upgrade(sys.argv[1], sys.argv[2])
