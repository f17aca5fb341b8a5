"""Transactions that run handlers together with the inbox rows of their events."""

import asyncio
import contextlib
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from opentelemetry.trace import SpanKind

from chassis.data.database import Database
from chassis.data.unit_of_work import UnitOfWork
from chassis.events.delivery import Delivery, Envelope
from chassis.events.inbox import Inbox, Taken, may_be_forgotten
from chassis.observe import tracing
from chassis.observe.otlp import Template

Handle = Callable[[Any, Envelope, UnitOfWork], Awaitable[None]]

# A transaction that has lasted this long takes no further events.
_BATCH_SECONDS = 0.25
# More than a working database needs to write the inbox and to cancel a statement.
_ANSWER_SECONDS, _CANCEL_SECONDS = 5.0, 2.0


class HandlerError(Exception):
    """A handler failed on a delivery; the cause is the exception that it raised."""

    def __init__(self, delivery: Delivery) -> None:
        super().__init__(delivery.event_id)
        self.delivery = delivery


class InboxError(Exception):
    """The inbox could not be written, which says nothing about any event."""


class Transactions:
    """The handlers of one consumer, by event type."""

    def __init__(
        self, database: Database, inbox: Inbox, consumer: str, handlers: Mapping[str, Handle]
    ) -> None:
        self._database = database
        self._inbox = inbox
        self._handlers = handlers
        attributes = {"messaging.system": "nats", "messaging.consumer.group.name": consumer}
        self._templates = {
            name: Template(f"process {name}", SpanKind.CONSUMER, attributes) for name in handlers
        }

    def predecessors(self, delivery: Delivery) -> list[uuid.UUID]:
        """Returns the events of this consumer that must be handled or given up before this one."""
        previous = () if delivery.replay_for else delivery.previous().items()
        return [
            event_id
            for kind, event_id in previous
            if kind in self._handlers and not may_be_forgotten(event_id)
        ]

    async def run(
        self, batch: Sequence[Delivery], *, handle_within: float, in_turn: bool = False
    ) -> dict[Delivery, str]:
        """Handles deliveries of different aggregates; returns `handled`, `duplicate` or `waiting` (for a predecessor).

        Deliveries that it had no time for are not in the result. Each handler has `handle_within` seconds. `in_turn`
        means that no predecessor will come any more. Raises HandlerError, InboxError and the errors of a commit; then
        none of the handlers has had an effect.
        """
        if len(batch) == 1:
            with self._span(batch[0]):
                return await self._run(batch, handle_within, in_turn=in_turn)
        with tracing.span("process batch", SpanKind.CONSUMER, {"messaging.batch.message_count": len(batch)}):
            return await self._run(batch, handle_within)

    async def _run(
        self, batch: Sequence[Delivery], handle_within: float, *, in_turn: bool = False
    ) -> dict[Delivery, str]:
        until = time.monotonic() + _BATCH_SECONDS
        outcomes: dict[Delivery, str] = {}
        async with self._database.unit_of_work() as work:
            taken = await self._take(work, batch, in_turn=in_turn)
            for delivery in batch:
                if delivery.event_id in taken.waiting:
                    outcomes[delivery] = "waiting"
                elif delivery.event_id not in taken.new:
                    outcomes[delivery] = "duplicate"
                elif delivery is batch[0] or time.monotonic() < until:
                    with self._span(delivery) if len(batch) > 1 else contextlib.nullcontext():
                        await self._handle(delivery, work, handle_within)
                    outcomes[delivery] = "handled"
            if left := taken.new.difference(delivery.event_id for delivery in outcomes):
                await self._inbox.leave(work, left)
        return outcomes

    async def _take(self, work: UnitOfWork, batch: Sequence[Delivery], *, in_turn: bool) -> Taken:
        predecessors = {each.event_id: [] if in_turn else self.predecessors(each) for each in batch}
        replayed = [each.event_id for each in batch if each.replay_for]
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                return await self._inbox.take(work, predecessors, replayed)
        except Exception as error:
            raise InboxError from error

    async def _handle(self, delivery: Delivery, work: UnitOfWork, within: float) -> None:
        event = delivery.type.message_class.FromString(delivery.data)
        began = time.monotonic()
        try:
            async with asyncio.timeout(within):
                await self._handlers[delivery.type.name](event, delivery.envelope(), work)
                # Flushed here, so that a refused row counts as a failure of this event.
                await work.flush()
        except Exception as error:
            if time.monotonic() - began > within + _CANCEL_SECONDS:
                # Its statement could not even be cancelled: it is the database that hangs, not the handler.
                raise InboxError from error
            raise HandlerError(delivery) from error

    def _span(self, delivery: Delivery) -> tracing.using:
        span = tracing.start(self._templates[delivery.type.name], delivery.headers)
        span.set_attributes(
            {"messaging.destination.name": delivery.subject, "messaging.message.id": str(delivery.event_id)}
        )
        return tracing.using(span)
