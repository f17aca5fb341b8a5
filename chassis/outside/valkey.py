"""Valkey: commands of all callers over one connection, written without waiting for earlier replies."""

import asyncio
import contextlib
from collections import deque
from typing import Any, NamedTuple, cast
from urllib.parse import SplitResult, unquote, urlsplit

import hiredis

from chassis.core import Unavailable

# The name of a command and its arguments, such as ("INCRBY", "visits", 2).
Command = tuple[str | int, ...]
_PORT = 6379
_ENCRYPTED = ("rediss", "valkeys")


class Valkey:
    """A Valkey or Redis server at a `valkey://`, `valkeys://`, `redis://` or `rediss://` URL.

    Connects with the first command, and again with the first one after the connection was lost.
    """

    def __init__(self, url: str, *, timeout: float) -> None:
        """`timeout` is in seconds: for a connection to be made, and then for each reply."""
        self._url = urlsplit(url)
        self._timeout = timeout
        self._opening: asyncio.Task[_Connection] | None = None

    async def run(self, *commands: Command) -> list[Any]:
        """Runs commands in their order, in one round trip; returns their replies (int, bytes, None or a list).

        Cancelling the caller does not take its commands back. When the connection is lost, they are sent once more, so
        that they may run twice. Raises Unavailable DEPENDENCY_UNAVAILABLE when Valkey does not reply in time or refuses
        a command; the commands may have run all the same.
        """
        try:
            try:
                return await self._run(commands)
            except ConnectionError:
                return await self._run(commands)
        except (OSError, hiredis.HiredisError) as error:
            raise Unavailable("DEPENDENCY_UNAVAILABLE", "Valkey is not reachable; try again.") from error

    async def close(self) -> None:
        """Closes the connection."""
        if self._opening is not None:
            with contextlib.suppress(OSError, hiredis.HiredisError):
                (await self._opening).close()

    async def _run(self, commands: tuple[Command, ...]) -> list[Any]:
        connection = await self._connection()
        return await connection.send(commands)

    async def _connection(self) -> "_Connection":
        opening = self._opening
        if opening is None or (opening.done() and (opening.exception() or opening.result().closed)):
            # Callers share the attempt, so that it goes on when the one who began it is cancelled.
            opening = self._opening = asyncio.ensure_future(self._open())
        return opening.result() if opening.done() else await asyncio.shield(opening)

    async def _open(self) -> "_Connection":
        url = self._url
        async with asyncio.timeout(self._timeout):
            _, connection = await asyncio.get_running_loop().create_connection(
                lambda: _Connection(self._timeout),
                url.hostname or "localhost",
                url.port or _PORT,
                ssl=True if url.scheme in _ENCRYPTED else None,
            )
        try:
            await connection.send(_greeting(url))
        except BaseException:
            connection.close()
            raise
        return connection


class _Sent(NamedTuple):
    """Commands that wait for their replies."""

    replies: "asyncio.Future[list[Any]]"
    size: int
    due: float


class _Connection(asyncio.Protocol):
    """A connection. Replies come in the order of the commands."""

    def __init__(self, timeout: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._timeout = timeout
        self._reader = hiredis.Reader()
        self._sent: deque[_Sent] = deque()
        self._replies: list[Any] = []
        self._timer: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport

    @property
    def closed(self) -> bool:
        """Whether the connection takes no more commands."""
        return self._transport.is_closing()

    def send(self, commands: tuple[Command, ...]) -> "asyncio.Future[list[Any]]":
        """Writes commands; the future gets their replies, or the first error among them."""
        replies: asyncio.Future[list[Any]] = self._loop.create_future()
        self._sent.append(_Sent(replies, len(commands), self._loop.time() + self._timeout))
        # uvloop sends what is written within a turn of the loop in one packet.
        self._transport.write(b"".join(map(_packed, commands)))
        if self._timer is None:
            self._timer = self._loop.call_later(self._timeout, self._check)
        return replies

    def close(self) -> None:
        """Closes the connection; what still waits for replies gets ConnectionResetError."""
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by its class

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        try:
            # False means that the next reply is not complete; Valkey has no such value.
            while (reply := self._reader.gets()) is not False:
                self._replies.append(reply)
                if len(self._replies) == self._sent[0].size:
                    _settle(self._sent.popleft().replies, self._replies)
                    self._replies = []
        except hiredis.ProtocolError:
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._fail_all(exc or ConnectionResetError("The connection was lost."))

    def _check(self) -> None:
        """Gives up the connection when the oldest commands are overdue: one timer for all, since a timer costs much."""
        self._timer = None
        if self._sent:
            left = self._sent[0].due - self._loop.time()
            if left > 0:
                self._timer = self._loop.call_later(left, self._check)
            else:
                self._fail_all(TimeoutError("Valkey does not reply."))
                self.close()

    def _fail_all(self, error: Exception) -> None:
        while self._sent:
            _fail(self._sent.popleft().replies, error)


def _greeting(url: SplitResult) -> tuple[Command, ...]:
    """The first commands of a connection; there is at least one, so that its reply shows that the server is up."""
    select = ("SELECT", url.path.strip("/") or "0")
    if url.password is None:
        return (select,)
    names = (unquote(name) for name in (url.username, url.password) if name)
    return (("AUTH", *names), select)


def _packed(command: Command) -> bytes:
    packed: bytes = hiredis.pack_command(command)  # type: ignore[arg-type] # its stub takes single words only
    return packed


def _settle(future: "asyncio.Future[list[Any]]", replies: list[Any]) -> None:
    error = next((reply for reply in replies if isinstance(reply, Exception)), None)
    if error is not None:
        _fail(future, error)
    elif not future.done():
        future.set_result(replies)


def _fail(future: "asyncio.Future[list[Any]]", error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
