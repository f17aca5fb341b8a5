"""Releases the stock of reservations whose time has ended, regardless of the state of the order and of ordering."""

import logging
from functools import partial

from chassis.core import repeat
from chassis.data import Database
from services.catalog import expiry_repository

INTERVAL_SECONDS = 5.0
# Each transaction ends at most this many reservations, so that it stays short.
BATCH = 100

_log = logging.getLogger(__name__)


async def run(database: Database) -> None:
    """Expires reservations every few seconds, until cancelled."""
    await repeat(
        partial(expire_batch, database),
        every=INTERVAL_SECONDS,
        batch=BATCH,
        log=_log,
        failure="Reservations could not be expired",
    )


async def expire_batch(database: Database) -> int:
    """Expires one batch of reservations; returns how many. Replicas do not block each other."""
    async with database.unit_of_work() as work:
        return await expiry_repository.expire_due(work, BATCH)
