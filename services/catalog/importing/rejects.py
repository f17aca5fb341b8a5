"""The reject file: the original rows that were not imported, with their line numbers and reasons."""

import csv
import io
import json
from collections.abc import Sequence
from typing import IO, Self

from services.catalog.importing.source import Record, Source


class RejectFile:
    """A reject file, open while an import runs, in the format of the source."""

    def __init__(self, source: Source, keep: int) -> None:
        """Opens the file after the `keep` bytes that an earlier run wrote, and drops everything after them."""
        self._source, path = source, source.rejects
        self._file: IO[bytes] = path.open("r+b" if keep and path.exists() else "w+b")
        self._file.truncate(keep)
        self._file.seek(keep)
        if not keep and not source.json:
            self._write_csv(["line", "reason", "message", *source.columns])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, record: Record, reason: str, message: str) -> None:
        values = record.values
        if self._source.json:
            reject = {
                "line": record.line,
                "reason": reason,
                "message": message,
                "row": values,
            }
            self._file.write(json.dumps(reject).encode() + b"\n")
        else:
            row = [values.get(column, "") for column in self._source.columns]
            self._write_csv([record.line, reason, message, *row])

    def flush(self) -> int:
        """Flushes the file to the operating system; returns its length."""
        self._file.flush()
        return self._file.tell()

    def _write_csv(self, row: Sequence[object]) -> None:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerow(row)
        self._file.write(text.getvalue().encode("utf-8", "surrogateescape"))
