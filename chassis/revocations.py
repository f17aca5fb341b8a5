"""Revocations: every process hears within moments that sessions have ended, and forgets their tokens."""

import asyncio
import datetime
import logging
import time
from collections.abc import Callable, Iterable
from typing import Any

import nats.errors
import nats.js.errors
from google.protobuf import message_factory
from google.protobuf.descriptor_pool import Default
from google.protobuf.message import DecodeError
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from chassis import contract
from chassis.broker import Broker
from chassis.cancellation import checkpoint

logger = logging.getLogger(__name__)

# Longer than any access token lives, so that a process that starts now knows every revocation that matters.
REMEMBERED_SECONDS = 900.0
_EVENT = "protomesh.identity.v1.SessionsRevoked"
_SUBJECT = "identity.sessions.revoked.v1.>"
_STREAM = "IDENTITY"
# How long a subscription may be silent before it is looked at; below the 5 s in which a revocation must be known.
_SILENCE_SECONDS = 3.0
_RETRY_SECONDS = 1.0


class Revocations:
    """Sessions that have ended while their tokens could still be alive. Times are Unix seconds."""

    def __init__(self) -> None:
        self._sessions: dict[str, float] = {}
        self._users: dict[str, float] = {}
        self._listeners: list[Callable[[str], None]] = []

    def on_revoked(self, listener: Callable[[str], None]) -> None:
        """Has a function called with the user's id at every revocation."""
        self._listeners.append(listener)

    def revoke(self, user_id: str, session_ids: Iterable[str], revoked_at: float) -> None:
        """Ends sessions of a user; all that began before `revoked_at` when none is named."""
        self._expire()
        sessions = tuple(session_ids)
        for session_id in sessions:
            self._sessions[session_id] = revoked_at
        if not sessions:
            self._users[user_id] = max(revoked_at, self._users.get(user_id, 0.0))
        for listener in self._listeners:
            listener(user_id)

    def covers(self, user_id: str, session_id: str, issued_at: float) -> bool:
        """Whether a token was revoked. `iat` has whole seconds, so a token of the same second counts as later."""
        if session_id and session_id in self._sessions:
            return True
        revoked_at = self._users.get(user_id)
        return revoked_at is not None and issued_at < int(revoked_at)

    def _expire(self) -> None:
        oldest = time.time() - REMEMBERED_SECONDS
        self._sessions = {key: at for key, at in self._sessions.items() if at > oldest}
        self._users = {key: at for key, at in self._users.items() if at > oldest}

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
        self.revoke(event.user_id, event.session_ids, event.revoked_at.ToNanoseconds() / 1e9)


def _consumer() -> ConsumerConfig:
    since = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=REMEMBERED_SECONDS)
    return ConsumerConfig(
        deliver_policy=DeliverPolicy.BY_START_TIME, opt_start_time=since, ack_policy=AckPolicy.NONE
    )


def _event_class() -> Any:
    """By name, since the chassis knows no domain's generated code."""
    contract.files()
    return message_factory.GetMessageClass(Default().FindMessageTypeByName(_EVENT))
