"""Migrations: a service's numbered alembic files, run without a configuration, one run at a time.

By hand: `python -m chassis.data.migrations catalog postgresql://…`.
"""

import importlib.util
import pathlib
import sys
from typing import Any, Protocol

from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.script import ScriptDirectory
from sqlalchemy import NullPool, create_engine, make_url, text
from sqlalchemy.engine import Connection

# Any number, the same for everybody who migrates the same database.
_LOCK = 0x70726F746F6D657368 & 0x7FFFFFFFFFFFFFFF


def upgrade(service: str, database_url: str, versions_dir: pathlib.Path | None = None) -> None:
    """Brings a database to the newest revision; a second process that does so waits, then finds it done.

    `versions_dir` is the folder of numbered files, by default the service's `migrations`. Raises LookupError
    when the service has none, and what the database says when it cannot be reached or a revision fails; all
    revisions are one transaction, so that a failed run leaves nothing behind.
    """
    versions = versions_dir or _versions_of(service)
    engine = create_engine(make_url(database_url).set(drivername="postgresql+psycopg"), poolclass=NullPool)
    with engine.begin() as connection:
        # Held to the end of the transaction, so that a crash cannot leave it locked.
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        # A migration that waits for a table makes everybody behind it wait as well: better that it fails.
        connection.execute(text("SET LOCAL lock_timeout = '5s'"))
        connection.execute(text("SET LOCAL statement_timeout = '10min'"))
        _run(connection, versions)


def _versions_of(service: str) -> pathlib.Path:
    found = importlib.util.find_spec(f"services.{service}")
    for folder in (found.submodule_search_locations or ()) if found else ():
        if (versions := pathlib.Path(folder) / "migrations").is_dir():
            return versions
    raise LookupError(f"The service {service!r} has no migrations.")


def _run(connection: Connection, versions: pathlib.Path) -> None:
    script = ScriptDirectory(str(versions.parent), version_locations=[str(versions)])

    def revisions(current: Any, _context: Any) -> Any:
        return script._upgrade_revs("head", current)  # noqa: SLF001 (what alembic's own command does)

    with EnvironmentContext(Config(), script, fn=revisions, destination_rev="head") as environment:
        environment.configure(connection=connection)
        environment.run_migrations()


class _Operations(Protocol):
    def execute(self, sqltext: str) -> None: ...


def create_chassis_tables(op: _Operations) -> None:
    """The chassis's tables, for the first revision of a service: `migrations.create_chassis_tables(op)`."""
    for statement in _TABLES:
        op.execute(statement)


_TABLES = (
    """
    CREATE TABLE outbox (
        position bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        id uuid NOT NULL UNIQUE,
        type text NOT NULL,
        stream text NOT NULL,
        subject text NOT NULL,
        aggregate_type text NOT NULL,
        aggregate_id text NOT NULL,
        aggregate_version bigint NOT NULL,
        payload bytea NOT NULL,
        trace_context jsonb NOT NULL,
        previous_id uuid,
        created_at timestamptz NOT NULL DEFAULT now(),
        published_at timestamptz
    )
    """,
    "CREATE INDEX outbox_unpublished_idx ON outbox (position) WHERE published_at IS NULL",
    "CREATE INDEX outbox_subject_idx ON outbox (subject, position)",
    "CREATE INDEX outbox_published_idx ON outbox (published_at)",
    """
    CREATE FUNCTION outbox_notify() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM pg_notify('outbox', '');
        RETURN NULL;
    END $$
    """,
    """
    CREATE TRIGGER outbox_notify AFTER INSERT ON outbox
    FOR EACH STATEMENT EXECUTE FUNCTION outbox_notify()
    """,
    """
    CREATE TABLE inbox (
        consumer text NOT NULL,
        event_id uuid NOT NULL,
        outcome text NOT NULL DEFAULT 'handled' CHECK (outcome IN ('handled', 'dead')),
        handled_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (consumer, event_id)
    )
    """,
    "CREATE INDEX inbox_handled_at_idx ON inbox (handled_at)",
    """
    CREATE TABLE inbox_failures (
        consumer text NOT NULL,
        event_id uuid NOT NULL,
        aggregate_id text NOT NULL,
        attempts integer NOT NULL,
        next_attempt_at timestamptz NOT NULL,
        error text NOT NULL,
        PRIMARY KEY (consumer, event_id)
    )
    """,
    """
    CREATE TABLE idempotency_keys (
        scope bytea PRIMARY KEY,
        fingerprint bytea NOT NULL,
        operation_id uuid NOT NULL,
        holder uuid NOT NULL,
        locked_until timestamptz NOT NULL,
        status_code integer,
        answer bytea,
        created_at timestamptz NOT NULL DEFAULT now(),
        expires_at timestamptz NOT NULL
    )
    """,
    "CREATE INDEX idempotency_keys_expires_at_idx ON idempotency_keys (expires_at)",
)


if __name__ == "__main__":
    upgrade(sys.argv[1], sys.argv[2])
