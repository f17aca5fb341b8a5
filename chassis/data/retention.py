"""Retention: deletes expired rows of the chassis's own tables, in small batches."""

import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from chassis.core.tasks import checkpoint, repeat
from chassis.data.database import Database

logger = logging.getLogger(__name__)

INTERVAL_SECONDS = 3600.0
BATCH = 1000

# Deletes at most 1,000 rows in a separate transaction, so that none holds locks for long; returns how many.
Purge = Callable[[Database], Awaitable[int]]


async def run(database: Database, purges: Sequence[Purge]) -> None:
    """Purges every hour until cancelled. Several processes may run it: each finds less to do."""
    failure = "Expired rows could not be deleted"
    await repeat(partial(purge, database, purges), every=INTERVAL_SECONDS, log=logger, failure=failure)


async def purge(database: Database, purges: Sequence[Purge]) -> None:
    """Deletes all rows that have expired by now."""
    for delete in purges:
        while await delete(database) >= BATCH:
            checkpoint()
