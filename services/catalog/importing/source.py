"""Reads the file to import, record by record, in constant memory: CSV with a header, or JSON lines."""

import csv
import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from services.catalog.importing.failure import ImportFailed

# A longer field is most likely a quote that was never closed, and would swallow the rest of the file.
LONGEST_FIELD = 64 * 1024
_DELIMITERS = ",;\t|"
_JSON_SUFFIXES = {".jsonl", ".ndjson", ".json"}


@dataclass(frozen=True, slots=True)
class Record:
    """A record: its position (lines from 1, `end` in bytes), and its values by column or its problem."""

    line: int
    last_line: int
    end: int
    values: Mapping[str, Any]
    problem: str = ""


class Source:
    """A file to import. `columns` come from the CSV header, or from the first JSON line."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.json = path.suffix.lower() in _JSON_SUFFIXES
        try:
            self.size = path.stat().st_size
            self._header = b"" if self.json else self._read_header()
        except OSError as error:
            raise ImportFailed(f"{path} cannot be read: {error.strerror}.") from None
        self._delimiter = _delimiter(self._header)
        self.columns = self._json_columns() if self.json else self._csv_columns()

    @property
    def rejects(self) -> Path:
        """The path of the reject file."""
        return self.path.with_name(f"{self.path.name}.rejects.{'jsonl' if self.json else 'csv'}")

    def digest(self) -> str:
        """Returns the SHA-256 of the content."""
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def records(self, offset: int = 0, line: int = 0) -> Iterator[Record]:
        """Returns the records after a byte offset at which `line` lines end; by default, all records."""
        with self.path.open("rb") as file:
            if not self.json and not offset:
                offset, line = len(self._header), 1
            file.seek(offset)
            yield from (self._json_records if self.json else self._csv_records)(_Lines(file, offset, line))

    def _read_header(self) -> bytes:
        with self.path.open("rb") as file:
            return file.readline(LONGEST_FIELD)

    def _csv_columns(self) -> list[str]:
        columns = next(csv.reader([_text(self._header)], delimiter=self._delimiter), [])
        columns = [column.strip() for column in columns]
        if not any(columns):
            raise ImportFailed(f"{self.path} has no header line with column names.")
        if repeated := [column for column, times in Counter(columns).items() if times > 1]:
            raise ImportFailed(f"{self.path} names the column {repeated[0]!r} twice.")
        return columns

    def _json_columns(self) -> list[str]:
        for record in self.records():
            if not record.problem:
                return list(record.values)
        return []

    def _csv_records(self, lines: "_Lines") -> Iterator[Record]:
        csv.field_size_limit(LONGEST_FIELD)
        reader = csv.reader(lines, delimiter=self._delimiter)
        while True:
            first = lines.line + 1
            try:
                fields = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield Record(first, lines.line, lines.offset, {}, f"not CSV: {error}")
                continue
            if any(field.strip() for field in fields):
                yield Record(first, lines.line, lines.offset, *self._csv_values(fields))

    def _csv_values(self, fields: list[str]) -> tuple[Mapping[str, Any], str]:
        values = dict(zip(self.columns, fields, strict=False))
        problem = ""
        if len(fields) != len(self.columns):
            problem = f"has {len(fields)} fields, but the header has {len(self.columns)}"
        elif not _is_utf8(fields):
            problem = "is not UTF-8"
        return values, problem

    @staticmethod
    def _json_records(lines: "_Lines") -> Iterator[Record]:
        for text in lines:
            if text.strip():
                yield Record(lines.line, lines.line, lines.offset, *_json_values(text))


class _Lines:
    """Lines of text, and their position in the file."""

    def __init__(self, file: IO[bytes], offset: int, line: int) -> None:
        self._file = file
        self.offset = offset
        self.line = line

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        raw = self._file.readline(16 * LONGEST_FIELD)
        if not raw:
            raise StopIteration
        self.offset += len(raw)
        self.line += raw.endswith(b"\n") or not self._file.peek(1)  # type: ignore[attr-defined]
        return _text(raw)


def _json_values(text: str) -> tuple[Mapping[str, Any], str]:
    try:
        values = json.loads(text) if _is_utf8([text]) else None
    except (ValueError, RecursionError):
        return {}, "is not JSON"
    return (values, "") if isinstance(values, dict) else ({}, "is not a JSON object in UTF-8")


def _text(raw: bytes) -> str:
    # Bytes that are not UTF-8 become surrogates, so that only their record is rejected.
    return raw.decode("utf-8", "surrogateescape").removeprefix("\ufeff")


def _is_utf8(texts: list[str]) -> bool:
    return not any(
        "\udc80" <= character <= "\udcff" for text in texts if not text.isascii() for character in text
    )


def _delimiter(header: bytes) -> str:
    return max(_DELIMITERS, key=_text(header).count)
