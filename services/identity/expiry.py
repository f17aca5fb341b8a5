"""Deletion of expired sessions and their refresh tokens."""

import logging
from functools import partial

from chassis.core import repeat
from chassis.data import Database
from services.identity import repository

INTERVAL_SECONDS = 3600.0
# Sessions that one transaction deletes at most, to keep it short.
BATCH = 200

_log = logging.getLogger(__name__)


async def run(database: Database) -> None:
    """Deletes expired sessions every hour until cancelled."""
    await repeat(
        partial(delete_batch, database),
        every=INTERVAL_SECONDS,
        batch=BATCH,
        log=_log,
        failure="Expired sessions could not be deleted",
    )


async def delete_batch(database: Database) -> int:
    """Deletes some expired sessions and returns how many. Replicas can run this at the same time."""
    async with database.unit_of_work() as work:
        return await repository.delete_expired_sessions(work, BATCH)
