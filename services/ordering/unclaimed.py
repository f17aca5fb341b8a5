"""Releases stock that was reserved for an order that was never written.

A process can die between the reservation and the order. The database refuses to commit an order that began more than
10 s ago (`orders_written_in_time`, in the migrations), so an older reservation without an order never gets one, unless
its call is repeated, which reserves again.
"""

import logging
from collections.abc import Collection
from typing import TYPE_CHECKING
from uuid import UUID

from google.protobuf.duration_pb2 import Duration
from protomesh.catalog.v1.inventory_service_pb2 import (
    ExpireReservationsRequest,
    FindReservationsRequest,
    HeldReservation,
)

from chassis.core import repeat
from chassis.data import Database
from services.ordering import repository

if TYPE_CHECKING:  # the stubs' type information knows this name, the module does not
    from protomesh.catalog.v1.inventory_service_pb2_grpc import InventoryServiceAsyncStub

# Twice the time in which an order is written, because the commit itself can be slow too.
UNCLAIMED_AFTER = Duration(seconds=20)
INTERVAL_SECONDS = 2.0
BATCH = 1000

_log = logging.getLogger(__name__)


class UnclaimedStock:
    """Checks each reservation that holds stock once, when it is old enough; after a start, checks all of them."""

    def __init__(self, database: Database, inventory: "InventoryServiceAsyncStub") -> None:
        self._database = database
        self._inventory = inventory
        self._seen: HeldReservation | None = None

    async def run(self) -> None:
        """Checks reservations every few seconds, until cancelled."""
        await repeat(
            self.look,
            every=INTERVAL_SECONDS,
            batch=BATCH,
            log=_log,
            failure="Unclaimed stock could not be released",
        )

    async def look(self) -> int:
        """Checks the next reservations and releases those without an order; returns how many it checked."""
        request = FindReservationsRequest(held_for=UNCLAIMED_AFTER, after=self._seen, limit=BATCH)
        found = (await self._inventory.FindReservations(request)).reservations
        if found:
            await self._expire_unclaimed({UUID(reservation.order_id) for reservation in found})
            self._seen = found[-1]
        return len(found)

    async def _expire_unclaimed(self, reserved: Collection[UUID]) -> None:
        unclaimed = set(reserved) - await repository.standing(self._database, reserved)
        if unclaimed:
            request = ExpireReservationsRequest(order_ids=map(str, unclaimed), held_for=UNCLAIMED_AFTER)
            expired = (await self._inventory.ExpireReservations(request)).order_ids
            _log.info("%d reservations had no order; their stock was released", len(expired))
