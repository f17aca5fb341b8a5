"""A TCP proxy in front of a real part, whose connections tests hang, cut or make lossy."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Self


class Proxy:
    """Forwards to `host:port` as long as nobody meddles; new connections fare as the present ones."""

    def __init__(self, host: str, port: int) -> None:
        self._upstream = (host, port)
        self._writers: set[asyncio.StreamWriter] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._swallowing = False
        self.port = 0
        # How many connections there were.
        self.accepted = 0
        # Set when something was swallowed.
        self.swallowed = asyncio.Event()

    def hang(self) -> None:
        """Connections are taken, and nothing comes through in either direction."""
        self._flowing.clear()

    def swallow(self) -> None:
        """What the part says is lost; what it is told arrives."""
        self._swallowing = True

    def cut(self) -> None:
        """Resets every connection; new ones work."""
        for writer in self._writers:
            writer.transport.abort()

    def heal(self) -> None:
        """From now on everything comes through again."""
        self._swallowing = False
        self._flowing.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        await self._flowing.wait()
        try:
            far_reader, far_writer = await asyncio.open_connection(*self._upstream)
        except OSError:
            writer.transport.abort()
            return
        both = {writer, far_writer}
        self._writers |= both
        try:
            await asyncio.gather(self._up(reader, far_writer), self._down(far_reader, writer))
        except OSError:
            pass
        finally:
            self._writers -= both
            for end in both:
                end.transport.abort()

    async def _up(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            await self._flowing.wait()
            writer.write(data)
            await writer.drain()
        writer.close()

    async def _down(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            await self._flowing.wait()
            if self._swallowing:
                self.swallowed.set()
                continue
            writer.write(data)
            await writer.drain()
        writer.close()

    @classmethod
    @asynccontextmanager
    async def before(cls, host: str, port: int) -> AsyncIterator[Self]:
        """A proxy on a free port until the block ends."""
        proxy = cls(host, port)
        tasks: set[asyncio.Task[None]] = set()

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            tasks.add(asyncio.create_task(proxy._serve(reader, writer)))

        server = await asyncio.start_server(accept, "127.0.0.1", 0)
        proxy.port = server.sockets[0].getsockname()[1]
        try:
            yield proxy
        finally:
            server.close()
            proxy.cut()
            for task in tasks:
                task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.gather(*tasks, return_exceptions=True)
