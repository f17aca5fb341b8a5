"""The SQL of all migrations, for a linter to read."""

from pathlib import Path

from chassis.data import migrations


def write(services: Path, into: Path) -> None:
    """Writes one file for each revision of the chassis and of each service below `services`, named after both."""
    lines = {folder.parent.name: migrations.Line(folder) for folder in sorted(services.glob("*/migrations"))}
    for owner, line in {"chassis": migrations.CHASSIS, **lines}.items():
        for name, script in line.scripts():
            (into / f"{owner}-{name}.sql").write_text(script)
