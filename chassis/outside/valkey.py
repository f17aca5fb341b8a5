"""Valkey: what callers ask for at the same time travels together."""

import asyncio
from typing import Any, NamedTuple

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as Disconnected
from redis.exceptions import RedisError

from chassis.core import Unavailable

# The name of a command and its arguments, such as ("INCRBY", "visits", 2).
Command = tuple[str | int, ...]


class _Asked(NamedTuple):
    """Commands of a caller that waits for their replies."""

    commands: tuple[Command, ...]
    replies: "asyncio.Future[list[Any]]"


class Valkey:
    """A Valkey or Redis server at a `valkey://`, `valkeys://`, `redis://` or `rediss://` URL.

    Connects with the first command. While one round trip is under way, the commands of all other callers wait and then
    share the next one: a pipeline costs redis-py nearly the same for many commands as for few.
    """

    def __init__(self, url: str, *, timeout: float) -> None:
        """`timeout` is in seconds: for a connection to be made, and then for each round trip."""
        self._client = Redis.from_url(
            "redis" + url.removeprefix("valkey").removeprefix("redis"),
            socket_timeout=timeout,
            socket_connect_timeout=timeout,
            # A lost connection is opened again, once and without delay; a server that hangs is not asked twice.
            retry=Retry(NoBackoff(), 1, supported_errors=(Disconnected,)),
        )
        self._waiting: list[_Asked] = []
        self._sending: asyncio.Task[None] | None = None

    async def run(self, *commands: Command) -> list[Any]:
        """Runs commands in their order, in one round trip; returns their replies as redis-py gives them.

        Cancelling the caller does not take its commands back. When the connection is lost, they are sent once more, so
        that they may run twice. Raises Unavailable DEPENDENCY_UNAVAILABLE when Valkey does not reply in time or refuses
        a command; the commands may have run all the same.
        """
        asked = _Asked(commands, asyncio.get_running_loop().create_future())
        self._waiting.append(asked)
        if self._sending is None or self._sending.done():
            self._sending = asyncio.create_task(self._send())
        try:
            return await asked.replies
        except (OSError, RedisError) as error:
            raise Unavailable("DEPENDENCY_UNAVAILABLE", "Valkey is not reachable; try again.") from error

    async def close(self) -> None:
        """Closes the connection, after the round trips that callers wait for."""
        if self._sending is not None:
            await self._sending
        await self._client.aclose()

    async def _send(self) -> None:
        while self._waiting:
            together, self._waiting = self._waiting, []
            try:
                replies = await self._round_trip(together)
            except Exception as error:  # noqa: BLE001 (each caller is told)
                # Who came meanwhile is told too, and does not wait for a time-out of its own.
                together += self._waiting
                self._waiting = []
                for asked in together:
                    _settle(asked, [error])
            else:
                for asked in together:
                    _settle(asked, [next(replies) for _ in asked.commands])

    async def _round_trip(self, together: list[_Asked]) -> Any:
        pipeline = self._client.pipeline(transaction=False)
        for asked in together:
            for command in asked.commands:
                pipeline.execute_command(*command)
        return iter(await pipeline.execute(raise_on_error=False))


def _settle(asked: _Asked, replies: list[Any]) -> None:
    if asked.replies.done():
        return  # its caller has left
    error = next((reply for reply in replies if isinstance(reply, Exception)), None)
    if error is not None:
        asked.replies.set_exception(error)
    else:
        asked.replies.set_result(replies)
