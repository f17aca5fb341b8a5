"""The revocation feed: every process learns within moments that sessions have ended, and rejects their tokens."""

import asyncio
import datetime
import functools
import logging
import uuid
from typing import Any

import nats.errors
import nats.js.errors
from google.protobuf import message_factory
from google.protobuf.descriptor_pool import Default
from google.protobuf.message import DecodeError
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from chassis.contract import registry
from chassis.core.tasks import checkpoint, wait_up_to
from chassis.events.broker import Broker
from chassis.trust.revocations import REMEMBERED_SECONDS, Revocations

logger = logging.getLogger(__name__)

_EVENT = "protomesh.identity.v1.SessionsRevoked"
_SUBJECT = "identity.sessions.revoked.v1.>"
_STREAM = "IDENTITY"
# How long a subscription may be silent before it is checked; with the pause after an error this stays below the 5 s
# within which a revocation must be known.
_SILENCE_SECONDS = 2.0
_RETRY_SECONDS = 1.0
# How far before the last event a new subscription begins. Receiving an event again changes nothing, and the clocks of
# a cluster do not agree to the millisecond.
_OVERLAP = datetime.timedelta(minutes=1)


class RevocationFeed:
    """The feed that keeps a process's revocations up to date from identity's events, in order and without gaps."""

    def __init__(self, revocations: Revocations) -> None:
        self._revocations = revocations
        self._heard_until = datetime.datetime.fromtimestamp(0, datetime.UTC)
        self._deaf = False
        # Set once all events that existed when the process started are known.
        self._caught_up = asyncio.Event()

    async def caught_up(self, within: float) -> bool:
        """Waits up to `within` seconds until the events from before the start are known; returns whether they are."""
        await wait_up_to(self._caught_up, within)
        return self._caught_up.is_set()

    async def follow(self, broker: Broker) -> None:
        """Reads identity's events until cancelled, from as far back as matters, through outages of NATS."""
        while True:
            try:
                jetstream = await broker.ready()
                await self._read(jetstream)
            except nats.js.errors.NotFoundError:
                # Identity has not created its stream yet, so no session has ended.
                self._caught_up.set()
            except Exception as error:  # noqa: BLE001 (whatever fails, sessions keep ending)
                self._tell(error)
            checkpoint()
            await asyncio.sleep(_RETRY_SECONDS)

    def _tell(self, error: Exception) -> None:
        if not self._deaf:
            logger.warning(
                "Revocations are not received (%s): tokens of sessions that end now stay valid until they expire.",
                type(error).__name__,
            )
        self._deaf = True

    async def _read(self, jetstream: JetStreamContext) -> None:
        """Applies events as long as none is missing; NATS keeps the consumer in memory and loses it with a restart."""
        subscription = await jetstream.subscribe(_SUBJECT, stream=_STREAM, config=self._consumer())
        try:
            heard = 0
            backlog = await _sent(subscription, and_to_come=True)
            self._deaf = False
            while True:
                if heard >= backlog:
                    self._caught_up.set()
                checkpoint()
                try:
                    message = await subscription.next_msg(timeout=_SILENCE_SECONDS)
                except nats.errors.TimeoutError:
                    # Events in transit when a connection broke were sent but never arrived.
                    if await _sent(subscription) > heard:
                        return
                    continue
                if message.metadata.sequence.consumer != heard + 1:
                    return
                heard += 1
                self._apply(message.data)
                self._heard_until = message.metadata.timestamp
        finally:
            await subscription.unsubscribe()

    def _consumer(self) -> ConsumerConfig:
        """Returns a consumer that starts by time, not by sequence, since a rebuilt stream counts from 1 again."""
        matters = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=REMEMBERED_SECONDS)
        return ConsumerConfig(
            # With a name, the request is made on a subject that ends with the filter, so that NATS can permit it alone.
            name=f"revocations-{uuid.uuid4().hex}",
            deliver_policy=DeliverPolicy.BY_START_TIME,
            opt_start_time=max(matters, self._heard_until - _OVERLAP),
            ack_policy=AckPolicy.NONE,
        )

    def _apply(self, data: bytes) -> None:
        try:
            event = _event_class().FromString(data)
        except DecodeError:
            logger.exception("An event on %s is not a %s.", _SUBJECT, _EVENT)
            return
        self._revocations.revoke(event.user_id, event.session_ids, event.revoked_at.ToNanoseconds() / 1e9)


async def _sent(subscription: JetStreamContext.PushSubscription, *, and_to_come: bool = False) -> int:
    """Returns how many events NATS has sent to a consumer; with `and_to_come`, also those that it has yet to send."""
    info = await subscription.consumer_info()
    sent = info.delivered.consumer_seq if info.delivered else 0
    return sent + (info.num_pending or 0 if and_to_come else 0)


@functools.cache
def _event_class() -> Any:
    """Looks up the event's class by name, since the chassis knows no domain's generated code."""
    registry.files()
    return message_factory.GetMessageClass(Default().FindMessageTypeByName(_EVENT))
