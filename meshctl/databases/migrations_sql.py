"""Migrations as the SQL that they run, for a linter to read."""

import io
from pathlib import Path
from typing import Any

from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.script import ScriptDirectory


def write(services: Path, into: Path) -> None:
    """Writes one file for each revision of each service below `services`, named after both."""
    for versions in sorted(services.glob("*/migrations")):
        script = ScriptDirectory(str(versions.parent), version_locations=[str(versions)])
        for revision in script.walk_revisions():
            text = _sql(script, revision.revision, revision.down_revision)
            (into / f"{versions.parent.name}-{Path(revision.path).stem}.sql").write_text(text)


def _sql(script: ScriptDirectory, revision: str, before: Any) -> str:
    def steps(_current: Any, _context: Any) -> Any:
        return script._upgrade_revs(revision, before)  # noqa: SLF001 (what alembic's own command does)

    buffer = io.StringIO()
    with EnvironmentContext(Config(), script, fn=steps, as_sql=True, starting_rev=before) as environment:
        environment.configure(dialect_name="postgresql", output_buffer=buffer, literal_binds=True)
        environment.run_migrations()
    return buffer.getvalue()
