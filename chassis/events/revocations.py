"""Revocations: every process hears within moments that sessions have ended, and forgets their tokens."""

import asyncio
import datetime
import logging
from typing import Any

import nats.errors
import nats.js.errors
from google.protobuf import message_factory
from google.protobuf.descriptor_pool import Default
from google.protobuf.message import DecodeError
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from chassis.contract import methods
from chassis.core.tasks import checkpoint
from chassis.events.broker import Broker
from chassis.trust.revocations import REMEMBERED_SECONDS, Revocations

logger = logging.getLogger(__name__)

_EVENT = "protomesh.identity.v1.SessionsRevoked"
_SUBJECT = "identity.sessions.revoked.v1.>"
_STREAM = "IDENTITY"
# How long a subscription may be silent before it is looked at; below the 5 s in which a revocation must be known.
_SILENCE_SECONDS = 3.0
_RETRY_SECONDS = 1.0


class RevocationFeed:
    """Keeps a process's revocations up to date by identity's events."""

    def __init__(self, revocations: Revocations) -> None:
        self._revocations = revocations

    async def follow(self, broker: Broker) -> None:
        """Reads identity's events until cancelled, from as far back as matters, whatever becomes of NATS."""
        jetstream = await broker.ready()
        while True:
            try:
                await broker.ensure_stream(_STREAM)
                await self._read(jetstream)
            except (nats.errors.Error, nats.js.errors.Error, OSError) as error:
                logger.debug("Revocations are not heard: %s", error)
            # What was heard before is heard again, which changes nothing.
            await asyncio.sleep(_RETRY_SECONDS)

    async def _read(self, jetstream: JetStreamContext) -> None:
        """Applies events for as long as the consumer exists; one in memory goes with NATS."""
        subscription = await jetstream.subscribe(_SUBJECT, stream=_STREAM, config=_consumer())
        try:
            while True:
                checkpoint()
                try:
                    message = await subscription.next_msg(timeout=_SILENCE_SECONDS)
                except nats.errors.TimeoutError:
                    await subscription.consumer_info()
                    continue
                self._apply(message.data)
        finally:
            await subscription.unsubscribe()

    def _apply(self, data: bytes) -> None:
        try:
            event = _event_class().FromString(data)
        except DecodeError:
            logger.exception("An event on %s is not a %s.", _SUBJECT, _EVENT)
            return
        self._revocations.revoke(event.user_id, event.session_ids, event.revoked_at.ToNanoseconds() / 1e9)


def _consumer() -> ConsumerConfig:
    since = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=REMEMBERED_SECONDS)
    return ConsumerConfig(
        deliver_policy=DeliverPolicy.BY_START_TIME, opt_start_time=since, ack_policy=AckPolicy.NONE
    )


def _event_class() -> Any:
    """By name, since the chassis knows no domain's generated code."""
    methods.files()
    return message_factory.GetMessageClass(Default().FindMessageTypeByName(_EVENT))
