"""Retention: deletes, bit by bit, what the chassis's own tables hold beyond its time."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from chassis import idempotency, inbox, outbox
from chassis.database import Database

logger = logging.getLogger(__name__)

INTERVAL_SECONDS = 3600.0
_BATCH = 1000

_OUTBOX = f"""
    DELETE FROM outbox WHERE position IN (SELECT position FROM outbox
        WHERE published_at < now() - interval '{outbox.RETENTION_DAYS} days' LIMIT {_BATCH})
    """  # noqa: S608 (constants of ours)
_INBOX = f"""
    DELETE FROM inbox WHERE (consumer, event_id) IN (SELECT consumer, event_id FROM inbox
        WHERE handled_at < now() - interval '{inbox.RETENTION_DAYS} days' LIMIT {_BATCH})
    """  # noqa: S608 (constants of ours)


async def run(database: Database) -> None:
    """Purges every hour, for ever. Several processes may: they find less to do."""
    while True:
        try:
            await purge(database)
        except Exception:
            logger.exception("What is past its keeping time could not be deleted; it is tried again.")
        await asyncio.sleep(INTERVAL_SECONDS)


async def purge(database: Database) -> None:
    """Deletes events that were published 7 days ago, inbox rows of 30 days, and idempotency keys past their time."""
    purges: tuple[Callable[[], Awaitable[int]], ...] = (
        lambda: _delete(database, _OUTBOX),
        lambda: _delete(database, _INBOX),
        lambda: idempotency.purge(database),
    )
    for delete in purges:
        # In batches, each a transaction of its own, so that none holds locks for long.
        while await delete() == _BATCH:
            pass


async def _delete(database: Database, statement: str) -> int:
    async with database.connection() as connection:
        return (await connection.execute(statement)).rowcount
