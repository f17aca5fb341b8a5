"""The relay: sends events from the outbox to the broker, in order, at least once."""

import asyncio
import functools
import json
import logging
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import nats.errors
import nats.js.errors
from opentelemetry.trace import Span, SpanKind
from psycopg import AsyncConnection
from psycopg.rows import namedtuple_row

from chassis.core.tasks import checkpoint, wait_up_to
from chassis.data.database import Database
from chassis.events import broker as broker_module
from chassis.events import maintenance, streams, wakeup
from chassis.events.broker import PUBLISH_SECONDS, Broker, Message
from chassis.events.delivery import PREVIOUS_HEADER, VERSION_HEADER
from chassis.observe import logs, tracing
from chassis.observe.otlp import Template

logger = logging.getLogger(__name__)

BATCH = 250
POLL_SECONDS = 2.0
STREAM_SECONDS = 5.0
_LONGEST_PAUSE = 5.0
# The wait while another relay holds the turn; it may have looked just before our events were committed.
_TURN_SECONDS = 0.05
# Less than the server's idle_in_transaction_session_timeout.
_BATCH_SECONDS = 8.0
_LONGEST_ERROR = 500
# One relay of a database publishes at a time: two would overtake each other within an aggregate.
_LOCK = 0x6F7574626F78

_TURN = "SELECT pg_try_advisory_xact_lock(%s)"
# A refused event holds up its own aggregate and nothing else.
_TAKE = """
    SELECT position, id, type, stream, subject, aggregate_type, aggregate_id, aggregate_version, payload,
           trace_context, previous, rebuilds, created_at
    FROM outbox AS event
    WHERE published_at IS NULL AND NOT EXISTS (
        SELECT FROM outbox AS refused
        WHERE refused.published_at IS NULL AND refused.next_attempt_at > now()
            AND refused.aggregate_type = event.aggregate_type AND refused.aggregate_id = event.aggregate_id)
    ORDER BY position LIMIT %s FOR UPDATE OF event SKIP LOCKED
    """
_MARK = (
    "UPDATE outbox SET published_at = now(), next_attempt_at = NULL, error = NULL WHERE position = ANY(%s)"
)
_REFUSED = """
    UPDATE outbox SET attempts = attempts + 1, error = %s,
        next_attempt_at = now() + make_interval(secs => least(power(2, attempts), 60))
    WHERE position = %s
    """


@dataclass(slots=True)
class _Sent:
    """The outcome of a batch: positions that were acknowledged or refused, and what kept the rest from being sent."""

    published: list[int] = field(default_factory=list)
    refused: dict[int, str] = field(default_factory=dict)
    outage: BaseException | None = None


class Relay:
    """The publisher of a service's events. Every process of the service may run one; they take turns by batch.

    An event is marked as published after NATS has acknowledged it. If anything fails in between, it is sent again with
    the same `Nats-Msg-Id`. An event that NATS refuses is retried after 1 s, 2 s, 4 s … 60 s; only other events about
    its aggregate wait for it.
    """

    def __init__(self, database: Database, broker: Broker, service: str) -> None:
        self._database = database
        self._broker = broker
        self._source = f"/protomesh/{service}"
        self._stream = streams.owned_by(service)
        self._stream_missing = asyncio.Event()
        self._had_turn = True
        # Whether the last batch may have left due events behind.
        self._was_full = False

    async def run(self) -> None:
        """Publishes until cancelled, through outages of PostgreSQL and NATS."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(wakeup.hear(self._database, self._broker))
            tasks.create_task(self._keep_stream())
            tasks.create_task(maintenance.measure(self._database))
            tasks.create_task(self._publish())

    async def _keep_stream(self) -> None:
        """Checks the service's stream periodically, and when it is found missing."""
        while True:
            checkpoint()
            await wait_up_to(self._stream_missing, STREAM_SECONDS)
            self._stream_missing.clear()
            await self._look_at_stream()

    async def _look_at_stream(self) -> None:
        try:
            if self._stream is not None and not await streams.exists(self._broker, self._stream):
                await self._make(self._stream)
        except Exception as error:  # noqa: BLE001 (PostgreSQL or NATS is unreachable; the next check retries)
            logger.warning("The stream %s could not be checked: %s", self._stream, type(error).__name__)

    async def _make(self, stream: str) -> None:
        """Creates a stream; if there was one before, it was lost, and the events still in the outbox are sent again."""
        before = await maintenance.now(self._database)
        if await streams.declare(self._broker, stream):
            count = await maintenance.republish(self._database, stream, before)
            if count:
                logger.warning("The stream %s was lost: %d events are sent again.", stream, count)
                self._database.events_written.set()

    async def _publish(self) -> None:
        await self._look_at_stream()
        pause = 0.0
        while True:
            checkpoint()
            self._database.events_written.clear()
            try:
                while await self.publish_batch() and self._was_full:
                    checkpoint()
                pause = 0.0
            except Exception as error:  # noqa: BLE001 (the relay survives every failure)
                if isinstance(error, nats.js.errors.NoStreamResponseError):
                    self._stream_missing.set()
                pause = min(pause * 2 or 0.1, _LONGEST_PAUSE)
                logger.warning("Events wait in the outbox: %s: %s", type(error).__name__, error)
                await asyncio.sleep(pause)
                continue
            await wait_up_to(self._database.events_written, POLL_SECONDS if self._had_turn else _TURN_SECONDS)

    async def publish_batch(self) -> int:
        """Publishes a batch; returns how many events were published or refused.

        Returns 0 when none is due or another relay holds the turn. Raises the errors of NATS and PostgreSQL, after
        marking what was acknowledged.
        """
        if not self._broker.connected:
            raise nats.errors.NoServersError
        async with self._database.connection() as connection, connection.transaction():
            turn = await (await connection.execute(_TURN, (_LOCK,))).fetchone()
            self._had_turn = turn is not None and turn[0]
            if not self._had_turn:
                return 0
            cursor = connection.cursor(row_factory=namedtuple_row)
            rows = await (await cursor.execute(_TAKE, (BATCH,), prepare=True)).fetchall()
            self._was_full = len(rows) == BATCH
            sent = await self._send(rows)
            await _record(connection, sent)
        if sent.outage is not None:
            raise sent.outage
        return len(sent.published) + len(sent.refused)

    async def _send(self, rows: Sequence[Any]) -> _Sent:
        """Sends events together, but those of one aggregate in sequence, and none behind one that failed."""
        lines: dict[tuple[str, str], deque[Any]] = {}
        for row in rows:
            lines.setdefault((row.aggregate_type, row.aggregate_id), deque()).append(row)
        sent = _Sent()
        until = time.monotonic() + _BATCH_SECONDS
        while lines and sent.outage is None:
            first = [line.popleft() for line in lines.values()]
            await self._send_together(first, sent, min(PUBLISH_SECONDS, until - time.monotonic()))
            lines = {
                aggregate: line
                for (aggregate, line), row in zip(lines.items(), first, strict=True)
                if line and row.position not in sent.refused
            }
        return sent

    async def _send_together(self, rows: Sequence[Any], sent: _Sent, seconds: float) -> None:
        spans = [_span(row) for row in rows]
        messages = [
            Message(row.subject, row.payload, self._headers(row, span))
            for row, span in zip(rows, spans, strict=True)
        ]
        errors = await self._broker.publish_together(messages, seconds)
        for row, span, error in zip(rows, spans, errors, strict=True):
            if error is None:
                sent.published.append(row.position)
            else:
                tracing.fail(span, error)
                _note(row, error, sent)
            span.end()

    def _headers(self, row: Any, span: Span) -> dict[str, str]:
        """Returns headers of CloudEvents in binary mode, and those that consumers of the mesh also need."""
        event_id = str(row.id)
        headers = {
            # Differs for each rebuild, whose events the broker would otherwise drop as duplicates.
            "Nats-Msg-Id": f"{event_id}/{row.rebuilds}" if row.rebuilds else event_id,
            "ce-specversion": "1.0",
            "ce-id": event_id,
            "ce-source": self._source,
            "ce-type": row.type,
            "ce-subject": row.aggregate_id,
            "ce-time": row.created_at.isoformat(),
            "content-type": "application/protobuf",
            VERSION_HEADER: str(row.aggregate_version),
            **tracing.trace_headers(span),
        }
        if row.previous:
            headers[PREVIOUS_HEADER] = json.dumps(row.previous)
        return headers


@functools.cache
def _template(event_type: str) -> Template:
    return Template(f"publish {event_type}", SpanKind.PRODUCER, {"messaging.system": "nats"})


def _span(row: Any) -> Span:
    # The request that wrote the event has ended; its trace continues here.
    span = tracing.start(_template(row.type), row.trace_context)
    span.set_attributes({"messaging.destination.name": row.subject, "messaging.message.id": str(row.id)})
    return span


def _note(row: Any, error: Exception, sent: _Sent) -> None:
    """Notes a failure: a refusal ends the events of its aggregate, an outage the batch once it is marked."""
    if broker_module.is_away(error):
        sent.outage = error
        return
    logger.warning("NATS refused the event %s; it will be retried: %s", row.id, error)
    sent.refused[row.position] = logs.clean(f"{type(error).__name__}: {error}")


async def _record(connection: AsyncConnection[Any], sent: _Sent) -> None:
    if sent.published:
        await connection.execute(_MARK, (sent.published,), prepare=True)
    for position, error in sent.refused.items():
        await connection.execute(_REFUSED, (error[:_LONGEST_ERROR], position))
