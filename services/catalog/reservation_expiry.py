"""Reservations whose time is up give their stock back, whatever has become of the order and of ordering."""

import asyncio
import logging

from chassis.data import Database
from services.catalog import expiry_repository

INTERVAL_SECONDS = 5.0
# A transaction stays short, and ends at most this many reservations.
BATCH = 100

_log = logging.getLogger(__name__)


async def run(database: Database) -> None:
    """Looks every few seconds; ends by cancellation."""
    while True:
        try:
            while await expire_batch(database) == BATCH:
                pass
        except Exception:  # noqa: BLE001 (whatever it is, there is a next time)
            _log.exception("Reservations whose time is up could not expire; the next look will do it.")
        await asyncio.sleep(INTERVAL_SECONDS)


async def expire_batch(database: Database) -> int:
    """Has some reservations expire; how many. Replicas do not get in each other's way."""
    async with database.unit_of_work() as work:
        return await expiry_repository.expire_due(work, BATCH)
