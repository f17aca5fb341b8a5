"""HTTP requests to the programs of a mesh, which serve their state on loopback ports or Unix sockets."""

import asyncio
import contextlib
import http
import http.client
import socket
from pathlib import Path
from urllib.parse import urlsplit

from meshctl.core.sockets import short

SECONDS = 2.0


async def request(at: int | Path, path: str, verb: str = "GET") -> tuple[int, str]:
    """Returns the status and text of an answer. Raises OSError or http.client.HTTPException when there is none."""
    return await asyncio.to_thread(_request, at, path, verb)


def page(url: str) -> str:
    """Returns what a program serves at a loopback URL; "" without a URL, and when there is no proper answer."""
    where = urlsplit(url)
    if not where.port:
        return ""
    try:
        status, text = _request(where.port, where.path, "GET")
    except (OSError, http.client.HTTPException):
        return ""
    return text if status == http.HTTPStatus.OK else ""


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
