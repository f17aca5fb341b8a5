"""What an HTTP/2 connection may do to the edge, frame by frame."""

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Self

from tests.edge_stand import EdgeStand, edge_stand

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEADERS, RST_STREAM, SETTINGS, GOAWAY, CONTINUATION = 1, 3, 4, 7, 9
END_STREAM, END_HEADERS = 1, 4
CANCEL = struct.pack(">I", 8)
# HPACK of `GET /healthz`, scheme http, authority a: two indexed fields, two literals that are not indexed.
REQUEST = b"\x82\x86\x04\x08/healthz\x01\x01a"
# The same as POST to a path that reads its body first.
UPLOAD = b"\x83\x86\x04\x0f/v1/users/login\x01\x01a"


class Connection:
    """Writes frames as a hostile client would."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    def send(self, kind: int, flags: int, stream: int, payload: bytes = b"") -> Self:
        self._writer.write(
            struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload
        )
        return self

    async def frames(self) -> AsyncIterator[tuple[int, int, bytes]]:
        """Type, stream and payload of each frame, until the edge closes the connection."""
        try:
            while True:
                head = await self._reader.readexactly(9)
                payload = await self._reader.readexactly(int.from_bytes(head[:3]))
                yield head[3], int.from_bytes(head[5:9]), payload
        except (asyncio.IncompleteReadError, ConnectionError):
            return


@asynccontextmanager
async def connected(stand: EdgeStand) -> AsyncIterator[Connection]:
    reader, writer = await asyncio.open_connection("127.0.0.1", stand.settings.port)
    writer.write(PREFACE)
    try:
        yield Connection(reader, writer).send(SETTINGS, 0, 0)
    finally:
        writer.transport.abort()


async def test_a_client_that_resets_streams_all_the_time_loses_its_connection(stand: EdgeStand) -> None:
    async with asyncio.timeout(20), connected(stand) as connection:
        for stream in range(1, 2001, 2):
            connection.send(HEADERS, END_STREAM | END_HEADERS, stream, REQUEST).send(
                RST_STREAM, 0, stream, CANCEL
            )
        assert GOAWAY in [kind async for kind, _, _ in connection.frames()]
    assert (await stand.http.get("/healthz")).status_code == 200, "others are not touched"


async def test_no_more_than_a_hundred_streams_are_open_at_once(stand: EdgeStand) -> None:
    async with asyncio.timeout(20), connected(stand) as connection:
        for stream in range(1, 241, 2):
            connection.send(HEADERS, END_HEADERS, stream, UPLOAD)
        assert await anext(kind async for kind, _, _ in connection.frames() if kind in (RST_STREAM, GOAWAY))


async def test_headers_of_endless_continuations_are_cut_off(stand: EdgeStand) -> None:
    async with asyncio.timeout(20), connected(stand) as connection:
        field = b"\x00\x07x-large\x7f\x81\x07" + b"x" * 1024
        connection.send(HEADERS, END_STREAM, 1, REQUEST)
        for _ in range(64):
            connection.send(CONTINUATION, 0, 1, field)
        connection.send(CONTINUATION, END_HEADERS, 1, field)
        first = await anext(
            kind async for kind, stream, _ in connection.frames() if stream == 1 or kind == GOAWAY
        )
        assert first in (RST_STREAM, GOAWAY)


async def test_connections_beyond_the_limit_are_turned_away(tmp_path: Path, edge_certificates: Path) -> None:
    async with edge_stand(tmp_path, edge_certificates, maximum_connections=5) as stand:
        held = [await asyncio.open_connection("127.0.0.1", stand.settings.port) for _ in range(10)]
        async with asyncio.timeout(5):
            ended = [asyncio.ensure_future(reader.read()) for reader, _ in held]
            done, _ = await asyncio.wait(ended, return_when=asyncio.FIRST_COMPLETED)
        assert done
        for task in ended:
            task.cancel()
        for _, writer in held:
            writer.transport.abort()
