"""Releases the stock of reservations whose time has ended, regardless of the state of the order and of ordering."""

import asyncio
import logging

from chassis.core import checkpoint
from chassis.data import Database
from services.catalog import expiry_repository

INTERVAL_SECONDS = 5.0
# Each transaction ends at most this many reservations, so that it stays short.
BATCH = 100

_log = logging.getLogger(__name__)


async def run(database: Database) -> None:
    """Expires reservations every few seconds, until cancelled."""
    while True:
        checkpoint()
        try:
            while await expire_batch(database) == BATCH:
                pass
        except Exception:  # noqa: BLE001 (any error is retried at the next interval)
            _log.exception("Could not expire reservations; trying again in a few seconds.")
        await asyncio.sleep(INTERVAL_SECONDS)


async def expire_batch(database: Database) -> int:
    """Expires one batch of reservations; returns how many. Replicas do not block each other."""
    async with database.unit_of_work() as work:
        return await expiry_repository.expire_due(work, BATCH)
