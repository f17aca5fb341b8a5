"""HTTP requests to the programs of a mesh, which serve their state on loopback ports or Unix sockets."""

import asyncio
import contextlib
import http.client
import socket
from pathlib import Path

from meshctl.core.sockets import short

SECONDS = 2.0


async def request(at: int | Path, path: str, verb: str = "GET") -> tuple[int, str]:
    """Returns the status and text of an answer. Raises OSError or http.client.HTTPException when there is none."""
    return await asyncio.to_thread(_request, at, path, verb)


class _SocketConnection(http.client.HTTPConnection):
    def __init__(self, at: Path) -> None:
        super().__init__("localhost")
        self._at = at

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(SECONDS)
        with short(self._at) as name:
            self.sock.connect(name)


def _request(at: int | Path, path: str, verb: str) -> tuple[int, str]:
    connection = (
        _SocketConnection(at)
        if isinstance(at, Path)
        else http.client.HTTPConnection("127.0.0.1", at, timeout=SECONDS)
    )
    with contextlib.closing(connection):
        connection.request(verb, path)
        response = connection.getresponse()
        return response.status, response.read().decode()
