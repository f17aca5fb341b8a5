"""Orders that are not paid in time expire; catalog hears of it and takes their stock back."""

import asyncio
import logging

from chassis.data import Database
from services.ordering import convert, repository

INTERVAL_SECONDS = 1.0
# A transaction stays short, and ends at most this many orders.
BATCH = 50

_log = logging.getLogger(__name__)


async def run(database: Database) -> None:
    """Looks every second; ends by cancellation. What came due while no process ran is due at once."""
    while True:
        try:
            while await expire_batch(database) == BATCH:
                pass
        except Exception:  # noqa: BLE001 (whatever it is, there is a next time)
            _log.exception("Unpaid orders could not expire; the next look will do it.")
        await asyncio.sleep(INTERVAL_SECONDS)


async def expire_batch(database: Database) -> int:
    """Has some orders expire; how many. Replicas do not get in each other's way."""
    async with database.unit_of_work() as work:
        orders = await repository.lock_due(work, BATCH)
        for order in orders:
            order.expire()
            work.publish(convert.order_expired(order), version=order.version)
        await repository.record(work, *orders)
    return len(orders)
