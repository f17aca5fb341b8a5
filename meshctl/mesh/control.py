"""The supervisor's control socket: one JSON request per connection, answered with JSON lines.

Requests: {"command": "status"}, {"command": "wiring"}, {"command": "stop"}, {"command": "restart", "service":
"catalog"}. Each answer is one line with "say" (progress), "error" (one sentence), or "result", which is the last.
"""

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from meshctl.core.failure import OperatorError
from meshctl.core.sockets import short


class NotRunning(OperatorError):
    """No supervisor listens on the socket."""


Say = Callable[[str], None]
Answer = Callable[[dict[str, Any], Say], Awaitable[Any]]


@contextlib.asynccontextmanager
async def serving(path: Path, answer: Answer) -> AsyncIterator[None]:
    """Answers requests on a socket at `path` that only its owner may use."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        def send(**line: Any) -> None:
            writer.write(json.dumps(line).encode() + b"\n")

        with contextlib.suppress(ConnectionError):
            try:
                request = json.loads(await reader.readline())
                send(result=await answer(request, lambda text: send(say=text)))
            except OperatorError as failure:
                send(error=str(failure))
            await writer.drain()
        writer.close()

    path.unlink(missing_ok=True)
    previous = os.umask(0o177)
    try:
        with short(path) as name:
            server = await asyncio.start_unix_server(connected, name)
    finally:
        os.umask(previous)
    try:
        yield
    finally:
        server.close()
        path.unlink(missing_ok=True)


def ask(path: Path, request: dict[str, Any], say: Say = print) -> Any:
    """Sends a request to the supervisor behind `path`, passes its progress to `say`, and returns its result.

    Raises NotRunning when no supervisor listens, and OperatorError with the error that it returns.
    """
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            with short(path) as name:
                connection.connect(name)
        except OSError:
            raise NotRunning(
                f"No mesh runs on {path.parent}: start one with ./scripts/up, or name its folder with --data."
            ) from None
        connection.sendall(json.dumps(request).encode() + b"\n")
        for line in connection.makefile():
            reply = json.loads(line)
            if "error" in reply:
                raise OperatorError(reply["error"])
            if "result" in reply:
                return reply["result"]
            say(reply["say"])
    raise OperatorError("The mesh ended before it answered: see mesh.log in its logs folder.")
