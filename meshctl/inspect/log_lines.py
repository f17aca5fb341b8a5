"""The lines of log files: JSON of the services and the edge, and the own form of each part."""

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

_DATE = re.compile(r"(\d{4})[-/](\d\d)[-/](\d\d) (\d\d:\d\d:\d\d(?:\.\d+)?)( UTC)?")
_SHOWN = {"time", "level", "service", "logger", "message", "trace_id", "span_id", "exception"}


@dataclass(frozen=True)
class Line:
    """A line of a process's log; `fields` are those of a line in JSON."""

    moment: datetime
    process: str
    text: str
    fields: dict[str, Any]

    @property
    def level(self) -> str:
        """How grave it is: as the process says, or by the status of a request."""
        if "status" in self.fields and "level" not in self.fields:
            return "error" if self.fields["status"] >= 500 else "info"
        return str(self.fields.get("level", ""))

    @property
    def trace_id(self) -> str:
        return str(self.fields.get("trace_id", ""))

    @property
    def summary(self) -> str:
        """What a person reads: the message with what belongs to it."""
        fields = self.fields
        if not fields:
            return self.text
        if "path" in fields and "status" in fields:
            return f"{fields.get('method')} {fields['path']} {fields['status']} in {fields.get('duration_ms')} ms"
        more = " ".join(f"{name}={value}" for name, value in fields.items() if name not in _SHOWN)
        return "\n".join(
            filter(None, (f"{fields.get('message', '')} {more}".strip(), fields.get("exception")))
        )


class LogFile:
    """The log of a process, read from a place near its end and then on."""

    def __init__(self, path: Path, most_bytes: int) -> None:
        self.path = path
        self._process = path.name.partition(".log")[0]
        status = path.stat()
        self._file, self._offset = status.st_ino, max(0, status.st_size - most_bytes)
        # For a line that does not say when: that of the line before it.
        self._moment = datetime.fromtimestamp(status.st_mtime, UTC)
        self._skips = self._offset > 0

    def read(self) -> list[Line]:
        """Returns the complete lines since the last time."""
        with self.path.open("rb") as file:
            status = self.path.stat()
            if status.st_ino != self._file or status.st_size < self._offset:
                # It was rotated.
                self._file, self._offset = status.st_ino, 0
            file.seek(self._offset)
            data = file.read()
        data = data[: data.rfind(b"\n") + 1]
        self._offset += len(data)
        lines = data.decode(errors="replace").splitlines()
        if self._skips and lines:
            self._skips = False
            del lines[0]
        return [self._line(text) for text in lines if text.strip()]

    def _line(self, text: str) -> Line:
        fields = _fields(text)
        self._moment = _moment(text, fields) or self._moment
        return Line(self._moment, self._process, text, fields)


def _fields(text: str) -> dict[str, Any]:
    if not text.startswith("{"):
        return {}
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _moment(text: str, fields: dict[str, Any]) -> datetime | None:
    try:
        if "time" in fields:
            return datetime.fromisoformat(fields["time"])
        if found := _DATE.search(text):
            year, month, day, time, utc = found.groups()
            moment = datetime.fromisoformat(f"{year}-{month}-{day} {time}")
            return moment.replace(tzinfo=UTC) if utc else moment.astimezone()
    except (ValueError, TypeError):
        return None
    return None
