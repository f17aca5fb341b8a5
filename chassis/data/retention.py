"""Retention: deletes, bit by bit, what the chassis's own tables hold beyond its time."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from chassis.data.database import Database

logger = logging.getLogger(__name__)

INTERVAL_SECONDS = 3600.0
BATCH = 1000

# Deletes at most 1,000 rows in a transaction of its own, so that none holds locks for long; returns how many.
Purge = Callable[[Database], Awaitable[int]]


async def run(database: Database, purges: Sequence[Purge]) -> None:
    """Purges every hour until cancelled. Several processes may: they find less to do."""
    while True:
        try:
            await purge(database, purges)
        except Exception:
            logger.exception("What is past its keeping time could not be deleted; it is tried again.")
        await asyncio.sleep(INTERVAL_SECONDS)


async def purge(database: Database, purges: Sequence[Purge]) -> None:
    """Deletes all that is past its keeping time now."""
    for delete in purges:
        while await delete(database) >= BATCH:
            pass
