"""Deletion of expired sessions and their refresh tokens."""

import asyncio
import logging

from chassis.core import checkpoint
from chassis.data import Database
from services.identity import repository

INTERVAL_SECONDS = 3600.0
# Sessions that one transaction deletes at most, to keep it short.
BATCH = 200

_log = logging.getLogger(__name__)


async def run(database: Database) -> None:
    """Deletes expired sessions every hour until cancelled."""
    while True:
        checkpoint()
        try:
            while await delete_batch(database) == BATCH:
                pass
        except Exception:  # noqa: BLE001 (whatever it is, the next run tries again)
            _log.exception("Expired sessions could not be deleted; trying again in an hour.")
        await asyncio.sleep(INTERVAL_SECONDS)


async def delete_batch(database: Database) -> int:
    """Deletes some expired sessions and returns how many. Replicas can run this at the same time."""
    async with database.unit_of_work() as work:
        return await repository.delete_expired_sessions(work, BATCH)
