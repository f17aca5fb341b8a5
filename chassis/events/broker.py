"""The connection to NATS JetStream, which reconnects by itself."""

import asyncio
import contextlib
import itertools
import json
import logging
import uuid
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Self
from urllib.parse import urlsplit

import nats
import nats.errors
import nats.js.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext

logger = logging.getLogger(__name__)

PUBLISH_SECONDS = 5.0
_RECONNECT_SECONDS = 0.5
# JetStream's error code for a cluster that has no leader yet.
_CLUSTER_UNAVAILABLE = 10008
# Errors for messages that the client itself refuses to send.
_REFUSALS = (nats.errors.MaxPayloadError, nats.errors.BadSubjectError, nats.errors.BadHeaderError)
# The status of a reply when no stream has the subject.
_NO_RESPONDERS = "503"


class Message(NamedTuple):
    """A message for a stream."""

    subject: str
    payload: bytes
    headers: Mapping[str, str]


def inboxes(name: str) -> str:
    """The subjects on which a connection of this name receives replies."""
    return f"{_inbox(name)}.>"


def _inbox(name: str) -> str:
    return f"_INBOX_{name}"


class Broker:
    """The connection of a process: `async with Broker(url) as broker`. Opening it does not wait for NATS.

    The URL may be those of several servers, separated by commas. Its calls raise `nats.errors.Error` (TimeoutError when
    NATS does not answer) and `nats.js.errors.Error`.
    """

    def __init__(self, url: str, *, name: str = "protomesh", replicas: int = 1) -> None:
        """Raises ValueError for a URL that no server can have."""
        self._servers = _servers(url)
        self._name = name
        # The replicas of streams that are created over this connection.
        self.replicas = replicas
        self._client = Client()
        self._jetstream = self._client.jetstream()
        # Acknowledgements that are waited for, by the subject on which they come.
        self._unacknowledged: dict[str, asyncio.Future[Exception | None]] = {}
        self._inbox = f"{_inbox(name)}.{uuid.uuid4().hex}"
        self._numbers = itertools.count()
        self._connecting: asyncio.Task[None] | None = None

    async def connect(self) -> None:
        """Starts to connect and returns immediately; retries until it succeeds."""
        self._connecting = asyncio.create_task(self._connect())

    async def _connect(self) -> None:
        await self._client.connect(
            self._servers,
            name=self._name,
            # Replies come to subjects of the service's own, which its NATS user alone may subscribe to.
            inbox_prefix=_inbox(self._name),
            max_reconnect_attempts=-1,
            reconnect_time_wait=_RECONNECT_SECONDS,  # type: ignore[arg-type]  # accepts fractions too
            ping_interval=10,
            error_cb=_note,
        )
        await self._client.subscribe(f"{self._inbox}.*", cb=self._acknowledged)

    async def close(self) -> None:
        """Sends buffered messages and disconnects."""
        if self._connecting is not None and not self._connecting.done():
            self._connecting.cancel()
            await asyncio.wait([self._connecting])
        # A connection that is lost meanwhile takes what is buffered with it; the outbox still has it. A RuntimeError is
        # how uvloop refuses to write to one that is gone, where asyncio's own loop says nothing.
        with contextlib.suppress(nats.errors.Error, OSError, RuntimeError):
            if self._client.is_connected:
                await self._client.flush()
            await self._client.close()

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def ready(self) -> JetStreamContext:
        """Waits for the first connection; returns its JetStream context."""
        if self._connecting is None:
            raise RuntimeError("The broker is not connected: call connect() first.")
        if self._connecting.done():
            self._connecting.result()
        else:
            await asyncio.shield(self._connecting)
        return self._jetstream

    @property
    def client(self) -> Client:
        """The core connection, for operations that JetStream's context does not offer."""
        return self._client

    @property
    def connected(self) -> bool:
        """Whether NATS is reachable now, as far as the client knows."""
        return self._client.is_connected

    async def publish(self, subject: str, payload: bytes, headers: Mapping[str, str]) -> None:
        """Publishes to the stream of the subject; returns once NATS has the message on disk."""
        [error] = await self.publish_together([Message(subject, payload, headers)])
        if error is not None:
            raise error

    async def publish_together(
        self, messages: Sequence[Message], seconds: float = PUBLISH_SECONDS
    ) -> list[Exception | None]:
        """Publishes messages in this order; returns for each None once NATS has it on disk, or its error.

        The client library's `publish` costs a task and a timer for each message, and its `publish_async` leaves the
        sender of a message that is refused waiting for good (nats-py 2.16).
        """
        await self.ready()
        waiting = {f"{self._inbox}.{next(self._numbers)}": each for each in messages}
        acknowledged = {reply: asyncio.Future[Exception | None]() for reply in waiting}
        self._unacknowledged |= acknowledged
        try:
            for reply, message in waiting.items():
                await self._send(message, reply)
            await asyncio.wait(acknowledged.values(), timeout=seconds)
            return [
                each.result() if each.done() else nats.errors.TimeoutError() for each in acknowledged.values()
            ]
        finally:
            for reply in acknowledged:
                del self._unacknowledged[reply]

    async def _send(self, message: Message, reply: str) -> None:
        try:
            await self._client.publish(message.subject, message.payload, reply, dict(message.headers))
        except Exception as error:  # noqa: BLE001 (the outcome of this message, and not of the others)
            self._unacknowledged[reply].set_result(error)

    async def _acknowledged(self, reply: Msg) -> None:
        waiting = self._unacknowledged.get(reply.subject)
        if waiting is not None and not waiting.done():
            waiting.set_result(_refusal(reply))


def _refusal(reply: Msg) -> Exception | None:
    """Returns the error in a stream's reply; None for an acknowledgement."""
    if reply.headers is not None and reply.headers.get("Status") == _NO_RESPONDERS:
        return nats.js.errors.NoStreamResponseError()
    error = json.loads(reply.data).get("error")
    if error is not None:
        try:
            nats.js.errors.APIError.from_error(error)  # raises it
        except nats.js.errors.APIError as refusal:
            return refusal
    return None


def _servers(urls: str) -> list[str]:
    """Returns the servers' URLs. nats-py would find a wrong one only once it connects, and then could not close."""
    servers = urls.split(",")
    parsed = [urlsplit(url if "://" in url else f"nats://{url}") for url in servers]
    try:
        complete = all(url.hostname and url.port != 0 for url in parsed)
    except ValueError:  # the port is not a number, or too high
        complete = False
    schemes = {url.scheme for url in parsed}
    if not complete or not (schemes <= {"nats", "tls"} or schemes <= {"ws", "wss"}):
        # Without the text itself, which may have a password.
        raise ValueError("this is not a list of NATS URLs, such as nats://10.0.0.1:4222,nats://10.0.0.2:4222")
    return servers


async def _note(error: Exception) -> None:
    # A request that NATS refuses by the user's permissions gets no reply: this is the only trace of it.
    refused = "permissions violation" in str(error).lower()
    logger.log(logging.ERROR if refused else logging.DEBUG, "Broker: %s", error)


def is_away(error: BaseException) -> bool:
    """Whether an error means that the broker is unreachable now, rather than that it refuses something."""
    if isinstance(error, nats.js.errors.APIError):
        return error.err_code == _CLUSTER_UNAVAILABLE
    return isinstance(error, nats.errors.Error) and not isinstance(error, _REFUSALS)
