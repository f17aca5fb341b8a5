"""Expires orders that are not paid in time; catalog receives the event and releases their stock."""

import asyncio
import logging

from chassis.core import checkpoint
from chassis.data import Database
from services.ordering import convert, repository

INTERVAL_SECONDS = 1.0
# Each transaction ends at most this many orders, so that it stays short.
BATCH = 50

_log = logging.getLogger(__name__)


async def run(database: Database) -> None:
    """Expires orders every second, until cancelled. Orders that came due while no process ran expire at once."""
    while True:
        checkpoint()
        try:
            while await expire_batch(database) == BATCH:
                pass
        except Exception:  # noqa: BLE001 (any error is retried at the next interval)
            _log.exception("Could not expire unpaid orders; trying again in a second.")
        await asyncio.sleep(INTERVAL_SECONDS)


async def expire_batch(database: Database) -> int:
    """Expires one batch of orders; returns how many. Replicas do not block each other."""
    async with database.unit_of_work() as work:
        orders = await repository.lock_due(work, BATCH)
        for order in orders:
            order.expire()
            work.publish(convert.order_expired(order), version=order.version)
        await repository.record(work, *orders)
    return len(orders)
