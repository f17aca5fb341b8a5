"""The progress of an import, kept beside the file while it runs, so that an interrupted import can continue."""

import json
import sqlite3
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self


@dataclass
class ImportProgress:
    """Where the next record begins, the length of the reject file there, and the outcomes of the rows so far."""

    offset: int = 0
    line: int = 0
    reject_bytes: int = 0
    created: int = 0
    updated: int = 0
    unchanged: int = 0
    rejected: int = 0

    @property
    def rows(self) -> int:
        return self.created + self.updated + self.unchanged + self.rejected


class Checkpoint:
    """A small SQLite file with the progress and the SKUs seen so far, because a set in memory would grow with them."""

    def __init__(self, path: Path, import_id: str) -> None:
        """Opens the checkpoint of the import `import_id`; discards one of another import, or of other content."""
        self._path = path
        self._import_id = import_id
        self._database = sqlite3.connect(path)
        self.progress = self._resume() or self._start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()

    def _resume(self) -> ImportProgress | None:
        try:
            found = self._database.execute(
                "SELECT progress FROM import WHERE id = ?", [self._import_id]
            ).fetchone()
        except sqlite3.DatabaseError:
            return None
        return ImportProgress(**json.loads(found[0])) if found else None

    def _start(self) -> ImportProgress:
        self._database.close()
        self._path.unlink(missing_ok=True)
        self._database = sqlite3.connect(self._path)
        self._database.execute("CREATE TABLE import (id TEXT, progress TEXT)")
        self._database.execute("CREATE TABLE met (sku TEXT PRIMARY KEY, line INTEGER) WITHOUT ROWID")
        progress = ImportProgress()
        self.save(progress)
        return progress

    def first_line(self, sku: str, line: int) -> int:
        """Returns the line on which a SKU was seen first: `line` itself when the SKU is new."""
        self._database.execute("INSERT OR IGNORE INTO met VALUES (?, ?)", [sku, line])
        found: int = self._database.execute("SELECT line FROM met WHERE sku = ?", [sku]).fetchone()[0]
        return found

    def save(self, progress: ImportProgress) -> None:
        """Commits the progress."""
        with self._database:
            self._database.execute("DELETE FROM import")
            self._database.execute(
                "INSERT INTO import VALUES (?, ?)", [self._import_id, json.dumps(asdict(progress))]
            )

    def finish(self) -> None:
        """Deletes the checkpoint of a finished import: the next import of this file starts over."""
        self._database.close()
        self._path.unlink(missing_ok=True)
