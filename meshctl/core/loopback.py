"""HTTP requests to the programs of a mesh, which serve their state on loopback ports."""

import asyncio
import contextlib
import http.client

SECONDS = 2.0


async def request(port: int, path: str, verb: str = "GET") -> tuple[int, str]:
    """Returns the status and text of an answer. Raises OSError or http.client.HTTPException when there is none."""
    return await asyncio.to_thread(_request, port, path, verb)


def _request(port: int, path: str, verb: str) -> tuple[int, str]:
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)) as connection:
        connection.request(verb, path)
        response = connection.getresponse()
        return response.status, response.read().decode()
