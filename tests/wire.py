"""A TCP connection that tests can cut or stall."""

import asyncio
from typing import Self


class Wire:
    """A TCP connection to a port, which can be cut in the middle of whatever it carries, as by kill -9."""

    def __init__(self, behind: int) -> None:
        self._behind = behind
        self._ends: list[asyncio.StreamWriter] = []
        self._stalled = False

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self.cut()

    def cut(self) -> None:
        self._server.close()
        for end in self._ends:
            end.transport.abort()

    def stall(self) -> None:
        """Carries nothing more, and tells nobody."""
        self._stalled = True

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._join(reader, writer)
        except ConnectionError:
            writer.transport.abort()

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._behind)
        self._ends += [writer, far_writer]
        await asyncio.gather(self._carry(reader, far_writer), self._carry(far_reader, writer))

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            if not self._stalled:
                writer.write(data)
