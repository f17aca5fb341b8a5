"""Sessions whose time is over are deleted, and their refresh tokens with them."""

import asyncio
import logging

from chassis.data import Database
from services.identity import repository

INTERVAL_SECONDS = 3600.0
# A transaction stays short, and deletes at most this many sessions.
BATCH = 200

_log = logging.getLogger(__name__)


async def run(database: Database) -> None:
    """Deletes every hour; ends by cancellation."""
    while True:
        try:
            while await delete_batch(database) == BATCH:
                pass
        except Exception:  # noqa: BLE001 (whatever it is, there is a next time)
            _log.exception("Expired sessions could not be deleted; the next hour will do it.")
        await asyncio.sleep(INTERVAL_SECONDS)


async def delete_batch(database: Database) -> int:
    """Deletes some expired sessions; how many. Replicas do not get in each other's way."""
    async with database.unit_of_work() as work:
        return await repository.delete_expired_sessions(work, BATCH)
