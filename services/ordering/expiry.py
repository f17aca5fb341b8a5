"""Expires orders that are not paid in time; catalog receives the event and releases their stock."""

import logging
from functools import partial

from chassis.core import repeat
from chassis.data import Database
from services.ordering import convert, repository

INTERVAL_SECONDS = 1.0
# Each transaction ends at most this many orders, so that it stays short.
BATCH = 50

_log = logging.getLogger(__name__)


async def run(database: Database) -> None:
    """Expires orders every second, until cancelled. Orders that came due while no process ran expire at once."""
    await repeat(
        partial(expire_batch, database),
        every=INTERVAL_SECONDS,
        batch=BATCH,
        log=_log,
        failure="Unpaid orders could not be expired",
    )


async def expire_batch(database: Database) -> int:
    """Expires one batch of orders; returns how many. Replicas do not block each other."""
    async with database.unit_of_work() as work:
        orders = await repository.lock_due(work, BATCH)
        for order in orders:
            order.expire()
            work.publish(convert.order_expired(order), version=order.version)
        await repository.record(work, *orders)
    return len(orders)
