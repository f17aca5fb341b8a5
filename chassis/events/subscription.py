"""Durable subscriptions: pull deliveries of event types from JetStream, and survive lost connections."""

import asyncio
import contextlib
import datetime as dt
import json
import logging
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Sequence

import nats.errors
import nats.js.errors
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig

from chassis.contract.event_types import EventType
from chassis.core.tasks import checkpoint
from chassis.events.broker import Broker
from chassis.events.delivery import Delivery

logger = logging.getLogger(__name__)

# Deliveries that wait for a later time count as well, so this bounds how many events failing aggregates may pile up
# before the whole consumer stops.
_MAXIMUM_PENDING = 10_000
_PULL_SECONDS, _HEARTBEAT_SECONDS, _SILENCE_SECONDS = 30.0, 1.0, 3.0
_PAUSE_SECONDS = 1.0
_HEARTBEAT, _NO_MESSAGES, _PULL_ENDED = "100", "404", "408"


class Subscription:
    """A named JetStream consumer for event types of one stream, which all processes of a service share.

    The client library's `fetch` waits for a whole batch; here every message is taken as it comes.
    """

    def __init__(
        self, broker: Broker, stream: str, types: Sequence[EventType], name: str, acknowledge_within: float
    ) -> None:
        self._broker = broker
        self._stream = stream
        self._name = name
        self._types = {kind.subject: kind for kind in types}
        self.durable = durable_of(name)
        self._config = ConsumerConfig(
            durable_name=self.durable,
            filter_subjects=sorted(kind.filter for kind in types),
            ack_policy=AckPolicy.EXPLICIT,
            ack_wait=acknowledge_within,
            # Attempts are counted in the inbox: a delivery that only waits for its turn is not an attempt.
            max_deliver=-1,
            max_ack_pending=_MAXIMUM_PENDING,
        )

    async def deliveries(
        self,
        room: Callable[[], Awaitable[int]],
        begins: Callable[[str, dt.datetime], Awaitable[None]],
    ) -> AsyncGenerator[Delivery, None]:
        """Yields deliveries until closed; `room` waits until some can be taken, and returns how many.

        `begins` is called with the stream and its time of creation each time that deliveries begin.
        """
        jetstream = await self._broker.ready()
        while True:
            checkpoint()
            try:
                made = (await jetstream.stream_info(self._stream)).created
                assert made is not None
                await jetstream.add_consumer(self._stream, self._config)
                await begins(self._stream, made)
                async with contextlib.aclosing(self._pulled(room)) as messages:
                    async for message in messages:
                        yield Delivery(message, self._types[message.subject.rpartition(".")[0]])
            except nats.js.errors.NotFoundError:
                # The stream's owner creates it, with its own settings.
                logger.info("%s waits for the stream %s.", self._name, self._stream)
            except Exception as error:  # noqa: BLE001 (a subscription survives every failure)
                logger.warning("%s waits for the broker: %s: %s", self._name, type(error).__name__, error)
            await asyncio.sleep(_PAUSE_SECONDS)

    async def _pulled(self, room: Callable[[], Awaitable[int]]) -> AsyncGenerator[Msg, None]:
        """Yields messages until the consumer has to be checked again."""
        client = self._broker.client
        inbox = client.new_inbox()
        incoming: asyncio.Queue[Msg] = asyncio.Queue()
        subscription = await client.subscribe(inbox, cb=incoming.put)
        try:
            while True:
                checkpoint()
                wanted = await room()
                await client.publish(self._next_subject(), _pull_request(wanted), reply=inbox)
                while wanted:
                    message = await self._received(incoming)
                    if message is None:
                        break
                    yield message
                    wanted -= 1
        except TimeoutError:
            return  # not even a heartbeat came: the pull is lost
        finally:
            with contextlib.suppress(nats.errors.Error):
                await subscription.unsubscribe()

    async def _received(self, incoming: asyncio.Queue[Msg]) -> Msg | None:
        """Returns the next message; None when the pull has ended.

        Raises TimeoutError when NATS is silent or the consumer is gone.
        """
        while True:
            if incoming.empty():
                async with asyncio.timeout(_SILENCE_SECONDS):
                    message = await incoming.get()
            else:
                message = incoming.get_nowait()
            status = (message.headers or {}).get("Status")
            if status is None:
                return message
            if status in (_NO_MESSAGES, _PULL_ENDED):
                return None
            if status != _HEARTBEAT:
                logger.info("%s: NATS says %s", self._name, message.headers)
                raise TimeoutError

    def _next_subject(self) -> str:
        return f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{self.durable}"

    async def lag(self) -> int:
        """Returns the number of events that are not handled yet. Raises the errors of NATS."""
        info = await (await self._broker.ready()).consumer_info(self._stream, self.durable)
        return (info.num_pending or 0) + (info.num_ack_pending or 0)

    async def is_coming(self, delivery: Delivery, predecessors: Collection[uuid.UUID]) -> bool:
        """Whether one of a delivery's predecessors is in the stream and not acknowledged.

        In a rebuilt stream it may be behind the delivery. Raises the errors of NATS.
        """
        jetstream = await self._broker.ready()
        floor = (await jetstream.consumer_info(self._stream, self.durable)).ack_floor
        first = floor.stream_seq + 1 if floor is not None else 1
        wanted = {str(event_id) for event_id in predecessors}
        for kind in self._types.values():
            subject = kind.subject_of(delivery.aggregate_id)
            sequence = first
            while True:
                checkpoint()
                try:
                    found = await jetstream.get_msg(self._stream, sequence, subject, next=True)
                except nats.js.errors.NotFoundError:
                    break
                if (found.headers or {}).get("ce-id") in wanted:
                    return True
                sequence = (found.seq or sequence) + 1
        return False


def durable_of(name: str) -> str:
    """The name of a subscription's durable consumer, in which a dot would be syntax."""
    return name.replace(".", "-")


def _pull_request(wanted: int) -> bytes:
    nanoseconds = 1_000_000_000
    return json.dumps(
        {
            "batch": wanted,
            "expires": int(_PULL_SECONDS * nanoseconds),
            "idle_heartbeat": int(_HEARTBEAT_SECONDS * nanoseconds),
        }
    ).encode()
