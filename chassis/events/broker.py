"""The connection to NATS JetStream: it comes back by itself, and knows the streams that the mesh needs."""

import asyncio
import logging
from collections.abc import Mapping
from datetime import timedelta
from typing import Self

import nats
import nats.errors
import nats.js.errors
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.api import DiscardPolicy, PubAck, StorageType, StreamConfig

from chassis.contract.event_types import DEAD_LETTERS, stream_subjects

logger = logging.getLogger(__name__)

PUBLISH_SECONDS = 5.0
DUPLICATE_WINDOW = timedelta(minutes=2)
# Less than an inbox remembers, so that nothing that a stream can still deliver is handled a second time.
EVENTS_KEPT = timedelta(days=14)
DEAD_LETTERS_KEPT = timedelta(days=90)
_RECONNECT_SECONDS = 0.5
# JetStream's own number for a cluster that has no leader yet.
_CLUSTER_UNAVAILABLE = 10008
# What the client itself refuses to send.
_REFUSALS = (nats.errors.MaxPayloadError, nats.errors.BadSubjectError, nats.errors.BadHeaderError)


class Broker:
    """One connection for a process: `async with Broker(url) as broker`. Opening it does not wait for NATS.

    Errors of its calls: `nats.errors.Error` (TimeoutError when NATS does not answer), `nats.js.errors.Error`.
    """

    def __init__(self, url: str, *, name: str = "protomesh", replicas: int = 1) -> None:
        self._url = url
        self._name = name
        self._replicas = replicas
        self._client = Client()
        self._connecting: asyncio.Task[None] | None = None
        self._streams: set[str] = set()

    async def connect(self) -> None:
        """Starts to connect, and returns at once; it is tried until it succeeds."""
        self._connecting = asyncio.create_task(self._connect())

    async def _connect(self) -> None:
        await self._client.connect(
            self._url.split(","),
            name=self._name,
            max_reconnect_attempts=-1,
            reconnect_time_wait=_RECONNECT_SECONDS,  # type: ignore[arg-type]  # fractions are slept as well
            ping_interval=10,
            error_cb=_note,
            reconnected_cb=self._forget_streams,
        )

    async def close(self) -> None:
        """Sends what is buffered, and leaves."""
        if self._connecting is not None and not self._connecting.done():
            self._connecting.cancel()
            await asyncio.wait([self._connecting])
        if self._client.is_connected:
            await self._client.flush()
        await self._client.close()

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def ready(self) -> JetStreamContext:
        """JetStream, as soon as the first connection stands."""
        if self._connecting is None:
            raise RuntimeError("The broker was not connected.")
        await asyncio.shield(self._connecting)
        return self._client.jetstream()

    @property
    def client(self) -> Client:
        """The core connection, for what JetStream's context does not offer."""
        return self._client

    @property
    def connected(self) -> bool:
        """Whether NATS can be reached now, as far as is known."""
        return self._client.is_connected

    async def publish(self, stream: str, subject: str, payload: bytes, headers: Mapping[str, str]) -> PubAck:
        """Publishes to a stream, which is made if there is none yet; returns once NATS has it on disk."""
        jetstream = await self.ready()
        await self.ensure_stream(stream)
        try:
            return await jetstream.publish(subject, payload, PUBLISH_SECONDS, headers=dict(headers))
        except nats.js.errors.NoStreamResponseError:
            self._streams.discard(stream)  # it was lost; the next attempt makes it again
            raise

    async def ensure_stream(self, name: str) -> None:
        """Makes a stream, or brings it to these settings; asks NATS once for each connection."""
        if name in self._streams:
            return
        jetstream = await self.ready()
        config = self._stream(name)
        try:
            await jetstream.add_stream(config)
        except nats.js.errors.BadRequestError:  # it is there, with other settings
            await jetstream.update_stream(config)
        self._streams.add(name)

    def _stream(self, name: str) -> StreamConfig:
        kept = DEAD_LETTERS_KEPT if name == DEAD_LETTERS else EVENTS_KEPT
        return StreamConfig(
            name=name,
            subjects=[stream_subjects(name)],
            storage=StorageType.FILE,
            discard=DiscardPolicy.NEW,
            max_age=kept.total_seconds(),
            duplicate_window=DUPLICATE_WINDOW.total_seconds(),
            num_replicas=self._replicas,
        )

    async def _forget_streams(self) -> None:
        self._streams.clear()


async def _note(error: Exception) -> None:
    logger.debug("Broker: %s", error)


def is_away(error: BaseException) -> bool:
    """Whether an error says that the broker cannot be reached now, rather than that it refuses something."""
    if isinstance(error, nats.js.errors.APIError):
        return error.err_code == _CLUSTER_UNAVAILABLE
    return isinstance(error, nats.errors.Error) and not isinstance(error, _REFUSALS)
