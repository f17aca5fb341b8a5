"""Log files of limited size. The supervisor writes them, so that none of their lines is lost when one is full."""

import os
import threading
from collections import deque
from pathlib import Path
from typing import IO

LOG_BYTES = 16 * 1024 * 1024
LAST_LINES = 5
_CHUNK = 65536


class Log:
    """A log file that is moved to `NAME.1` when it reaches LOG_BYTES: both together stay below twice that."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: IO[bytes] | None = None
        self._lost = 0
        self._lock = threading.Lock()

    def write(self, lines: bytes) -> None:
        """Appends the lines. Nobody waits for a full disk: what does not fit is counted, and the log says so later."""
        with self._lock:
            try:
                if self._lost:
                    self._append(b"\n(%d bytes of this log are lost: the disk was full)\n" % self._lost)
                    self._lost = 0
                self._append(lines)
            except OSError:
                self._lost += len(lines)

    def _append(self, lines: bytes) -> None:
        if self._file is None:
            self._file = self.path.open("ab", buffering=0)
        # Between two lines, since a chunk may end anywhere in one.
        ended = lines.rfind(b"\n") + 1
        if ended and self._file.tell() + len(lines) > LOG_BYTES:
            _write_all(self._file, lines[:ended])
            lines = lines[ended:]
            self.path.replace(older(self.path))
            self._file.close()
            self._file = self.path.open("ab", buffering=0)
        _write_all(self._file, lines)

    def follow(self, reader: int) -> "Follower":
        """Writes what comes out of this pipe, until all who write into it have closed it."""
        follower = Follower(self, reader)
        follower.start()
        return follower


class Follower(threading.Thread):
    """Copies a pipe to a log. It is a thread, so that the writers never wait for what else this process does."""

    def __init__(self, log: Log, reader: int) -> None:
        super().__init__(name=f"log {log.path.name}", daemon=True)
        self._log, self._reader = log, reader
        self._last: deque[bytes] = deque(maxlen=LAST_LINES + 1)

    def run(self) -> None:
        with os.fdopen(self._reader, "rb", buffering=0) as pipe:
            while chunk := pipe.read(_CHUNK):
                self._remember(chunk)
                self._log.write(chunk)

    @property
    def last_words(self) -> str:
        """The last lines that came out of the pipe."""
        lines = [line.decode(errors="replace") for line in list(self._last) if line]
        return "\n".join(lines[-LAST_LINES:])

    def _remember(self, chunk: bytes) -> None:
        unfinished = self._last.pop() if self._last else b""
        # A long line is known by its beginning.
        self._last.extend((unfinished + chunk[-_CHUNK:]).split(b"\n"))
        self._last[-1] = self._last[-1][:_CHUNK]


def older(path: Path) -> Path:
    """Where a full log is kept until the next one is full."""
    return path.with_name(f"{path.name}.1")


def redirect_output(path: Path) -> None:
    """Sends the standard output and error of this process to the end of a file from now on."""
    with path.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)


def shorten_output(path: Path) -> None:
    """Begins the file of `redirect_output` anew when it is full. Only this process writes to it, so nothing is lost."""
    if path.stat().st_size > LOG_BYTES:
        path.replace(older(path))
        redirect_output(path)


def _write_all(file: IO[bytes], data: bytes) -> None:
    """Writes everything, or raises OSError: a file without a buffer may take a part when the disk gets full."""
    while data:
        data = data[file.write(data) :]
