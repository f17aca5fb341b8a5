"""The relay: takes events out of the outbox to the broker, in order, at least once."""

import asyncio
import datetime as dt
import json
import logging
from collections import deque
from collections.abc import Sequence
from typing import Any

import nats.errors
import psycopg
from opentelemetry.trace import SpanKind
from prometheus_client import Gauge
from psycopg.rows import namedtuple_row

from chassis.core.tasks import checkpoint
from chassis.data import outbox
from chassis.data.database import Database
from chassis.events.broker import Broker
from chassis.events.delivery import PREVIOUS_HEADER, VERSION_HEADER
from chassis.observe import tracing

logger = logging.getLogger(__name__)

_PURGE = f"""
    DELETE FROM outbox WHERE position IN (SELECT position FROM outbox
        WHERE published_at < now() - interval '{outbox.RETENTION_DAYS} days' LIMIT 1000)
    """  # noqa: S608 (constants of ours)

BATCH = 100
POLL_SECONDS = 2.0
MEASURE_SECONDS = 5.0
_LONGEST_PAUSE = 5.0
# Less than the server's idle_in_transaction_session_timeout.
_BATCH_SECONDS = 8.0
# One relay of a database publishes at a time: two would overtake each other within an aggregate.
_LOCK = 0x6F7574626F78

_TURN = "SELECT pg_try_advisory_xact_lock(%s)"
_TAKE = """
    SELECT position, id, type, stream, subject, aggregate_type, aggregate_id, aggregate_version, payload,
           trace_context, previous, created_at
    FROM outbox WHERE published_at IS NULL ORDER BY position LIMIT %s FOR UPDATE SKIP LOCKED
    """
_MARK = "UPDATE outbox SET published_at = now() WHERE position = ANY(%s)"
_MEASURE = """
    SELECT count(*), coalesce(extract(epoch FROM now() - min(created_at)), 0)::float8
    FROM (SELECT created_at FROM outbox WHERE published_at IS NULL ORDER BY position LIMIT 10000) AS waiting
    """
_REPUBLISH = """
    UPDATE outbox SET published_at = NULL WHERE stream = %s AND published_at IS NOT NULL AND created_at >= %s
    """

LAG_SECONDS = Gauge("outbox_lag_seconds", "Age of the oldest event that is not published.", ["database"])
LAG_EVENTS = Gauge("outbox_lag_events", "Events that are not published, counted up to 10,000.", ["database"])


class Relay:
    """Publishes a service's events. Every process of the service runs one; they take turns by batch.

    An event is marked published after NATS has acknowledged it. Whatever dies in between, it is sent again, under
    the same `Nats-Msg-Id`.
    """

    def __init__(self, database: Database, broker: Broker, source: str) -> None:
        self._database = database
        self._broker = broker
        self._source = f"/protomesh/{source}"
        self._wake = asyncio.Event()

    async def run(self) -> None:
        """Publishes until cancelled, whatever becomes of PostgreSQL and NATS meanwhile."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._listen())
            tasks.create_task(self._measure())
            tasks.create_task(self._publish())

    async def _listen(self) -> None:
        """Wakes the publisher when a transaction has written events."""
        while True:
            checkpoint()
            try:
                async with await self._database.connect() as connection:
                    await connection.execute("LISTEN outbox")
                    self._wake.set()
                    async for _ in connection.notifies():
                        self._wake.set()
            except (psycopg.Error, OSError) as error:
                logger.debug("The relay does not hear PostgreSQL, and polls: %s", error)
            await asyncio.sleep(POLL_SECONDS)

    async def _publish(self) -> None:
        await self._broker.ready()
        pause = 0.0
        while True:
            checkpoint()
            self._wake.clear()
            try:
                while await self.publish_batch():
                    checkpoint()
                    pause = 0.0
            except Exception as error:  # noqa: BLE001 (the relay outlives every failure)
                pause = min(pause * 2 or 0.1, _LONGEST_PAUSE)
                logger.warning("Events wait in the outbox: %s: %s", type(error).__name__, error)
                await asyncio.sleep(pause)
                continue
            await self._woken()

    async def _woken(self) -> None:
        try:
            async with asyncio.timeout(POLL_SECONDS):
                await self._wake.wait()
        except TimeoutError:
            pass

    async def publish_batch(self) -> int:
        """Publishes up to 100 events; answers how many. 0: there are none, or another relay is at it.

        Raises what NATS or PostgreSQL raise, after it has marked what was acknowledged.
        """
        if not self._broker.connected:
            raise nats.errors.NoServersError
        async with self._database.connection() as connection, connection.transaction():
            turn = await (await connection.execute(_TURN, (_LOCK,))).fetchone()
            if turn is None or not turn[0]:
                return 0
            cursor = connection.cursor(row_factory=namedtuple_row)
            rows = await (await cursor.execute(_TAKE, (BATCH,), prepare=True)).fetchall()
            published, failure = await self._send(rows)
            if published:
                await connection.execute(_MARK, (published,), prepare=True)
        if failure is not None:
            raise failure
        return len(published)

    async def _send(self, rows: Sequence[Any]) -> tuple[list[int], BaseException | None]:
        """Sends concurrently, but of one aggregate one after the other, and none behind one that failed."""
        lines: dict[tuple[str, str], deque[Any]] = {}
        for row in rows:
            lines.setdefault((row.aggregate_type, row.aggregate_id), deque()).append(row)
        published: list[int] = []
        results = await asyncio.gather(
            *(self._send_line(line, published) for line in lines.values()), return_exceptions=True
        )
        return published, next((result for result in results if isinstance(result, BaseException)), None)

    async def _send_line(self, line: deque[Any], published: list[int]) -> None:
        async with asyncio.timeout(_BATCH_SECONDS):
            while line:
                await self._send_one(line[0])
                published.append(line.popleft().position)

    async def _send_one(self, row: Any) -> None:
        name = f"publish {row.type}"
        attributes = {
            "messaging.system": "nats",
            "messaging.destination.name": row.subject,
            "messaging.message.id": str(row.id),
        }
        # The request that wrote the event has long been answered; its trace goes on here.
        with tracing.span(name, SpanKind.PRODUCER, attributes, parent=row.trace_context):
            await self._broker.publish(row.stream, row.subject, row.payload, self._headers(row))

    def _headers(self, row: Any) -> dict[str, str]:
        """CloudEvents in binary mode, and what our consumers need besides."""
        headers = {
            "Nats-Msg-Id": str(row.id),
            "ce-specversion": "1.0",
            "ce-id": str(row.id),
            "ce-source": self._source,
            "ce-type": row.type,
            "ce-subject": row.aggregate_id,
            "ce-time": row.created_at.isoformat(),
            "content-type": "application/protobuf",
            VERSION_HEADER: str(row.aggregate_version),
            **tracing.trace_headers(),
        }
        if row.previous:
            headers[PREVIOUS_HEADER] = json.dumps(row.previous)
        return headers

    async def _measure(self) -> None:
        seconds, events = LAG_SECONDS.labels(self._database.name), LAG_EVENTS.labels(self._database.name)
        while True:
            checkpoint()
            try:
                async with self._database.connection() as connection:
                    row = await (await connection.execute(_MEASURE)).fetchone()
            except Exception:
                logger.debug("The outbox could not be measured.", exc_info=True)
            else:
                if row is not None:
                    events.set(row[0])
                    seconds.set(row[1])
            await asyncio.sleep(MEASURE_SECONDS)


async def republish(database: Database, stream: str, since: dt.datetime) -> int:
    """Has the events of a stream sent again that were written since a time, to rebuild a stream that was lost.

    Answers how many. The outbox goes back 7 days; consumers drop what they have handled before.
    """
    async with database.connection() as connection:
        return (await connection.execute(_REPUBLISH, (stream, since))).rowcount


async def purge(database: Database) -> int:
    """Deletes a batch of events that were published long ago; returns how many."""
    async with database.connection() as connection:
        return (await connection.execute(_PURGE)).rowcount
