"""Maintenance of the outbox: measures its lag, deletes old rows, and refills a lost stream."""

import asyncio
import datetime as dt
import logging
from typing import cast

from prometheus_client import Gauge

from chassis.core.tasks import checkpoint
from chassis.data import outbox
from chassis.data.database import Database

logger = logging.getLogger(__name__)

MEASURE_SECONDS = 5.0
# Rows per statement, which take far less than its time limit.
_REPUBLISHED_AT_ONCE = 5000

_MEASURE = """
    SELECT count(*), coalesce(extract(epoch FROM now() - min(created_at)), 0)::float8, count(next_attempt_at)
    FROM (SELECT created_at, next_attempt_at FROM outbox WHERE published_at IS NULL ORDER BY position LIMIT 10000)
        AS waiting
    """
_PURGE = f"""
    DELETE FROM outbox WHERE position IN (SELECT position FROM outbox
        WHERE published_at < now() - interval '{outbox.RETENTION_DAYS} days' LIMIT 1000)
    """  # noqa: S608 (constants of ours)
_REPUBLISH = """
    WITH lost AS (
        SELECT position FROM outbox
        WHERE stream = %(stream)s AND published_at < %(before)s AND position > %(after)s
        ORDER BY position LIMIT %(limit)s
    ), again AS (
        UPDATE outbox SET published_at = NULL, rebuilds = rebuilds + 1
        WHERE position IN (SELECT position FROM lost)
    )
    SELECT count(*), max(position) FROM lost
    """

LAG_SECONDS = Gauge("outbox_lag_seconds", "Age of the oldest unpublished event.", ["database"])
LAG_EVENTS = Gauge("outbox_lag_events", "Unpublished events, counted up to 10,000.", ["database"])
REFUSED = Gauge("outbox_refused_events", "Events that the broker refused and that are retried.", ["database"])


async def measure(database: Database) -> None:
    """Keeps the gauges up to date until cancelled."""
    gauges = [gauge.labels(database.name) for gauge in (LAG_EVENTS, LAG_SECONDS, REFUSED)]
    while True:
        checkpoint()
        try:
            async with database.connection() as connection:
                row = await (await connection.execute(_MEASURE)).fetchone()
        except Exception:
            logger.debug("The outbox could not be measured.", exc_info=True)
        else:
            for gauge, value in zip(gauges, row or (), strict=True):
                gauge.set(value)
        await asyncio.sleep(MEASURE_SECONDS)


async def now(database: Database) -> dt.datetime:
    """Returns the time by the clock that sets `published_at`."""
    async with database.connection() as connection:
        row = await (await connection.execute("SELECT clock_timestamp()")).fetchone()
    assert row is not None
    return cast(dt.datetime, row[0])


async def republish(database: Database, stream: str, before: dt.datetime | None = None) -> int:
    """Queues the events of a stream that were published before a time, by default now, to be sent again.

    Returns how many. The outbox has the events of 7 days. Consumers drop events that they have handled, and handle the
    others in order.
    """
    total = after = 0
    before = before or await now(database)
    async with database.connection() as connection:
        while True:
            checkpoint()
            values = {"stream": stream, "before": before, "after": after, "limit": _REPUBLISHED_AT_ONCE}
            row = await (await connection.execute(_REPUBLISH, values)).fetchone()
            if row is None or not row[0]:
                return total
            total, after = total + row[0], row[1]


async def purge(database: Database) -> int:
    """Deletes a batch of events that were published long ago; returns how many."""
    async with database.connection() as connection:
        return (await connection.execute(_PURGE)).rowcount
