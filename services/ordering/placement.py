"""Placing an order: its stock is reserved under the order's id, then the order is written, in one transaction.

A call that is interrupted between the two leaves a reservation without an order. A retry with the same idempotency key
continues under the same id; if there is none, services/ordering/unclaimed.py releases the stock.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import UUID

from protomesh.ordering.v1.order_pb2 import Order as OrderMessage
from protomesh.ordering.v1.order_service_pb2 import PlaceOrderRequest

from chassis.core import overloaded
from chassis.data import Database, bulkheads
from chassis.rpc import Call
from services.ordering import convert, repository
from services.ordering.model import NewOrder
from services.ordering.settings import OrderingSettings

if TYPE_CHECKING:  # the stubs' type information knows this name, the module does not
    from protomesh.catalog.v1.inventory_service_pb2_grpc import InventoryServiceAsyncStub

# The time that placing an order may take once it is its turn.
_PLACING_SECONDS = 4.0
# Stock is held a little longer than its order waits for payment, so that an order is never without it.
_LONGER_THAN_THE_ORDER = timedelta(minutes=5)


class Placement:
    """Places orders, as many at a time as calls have database connections.

    Under heavy load the others wait in line before their first step, and not between two steps, where the short
    deadlines of calls and connections apply.
    """

    def __init__(
        self, database: Database, inventory: "InventoryServiceAsyncStub", settings: OrderingSettings
    ) -> None:
        self._database = database
        self._inventory = inventory
        self._life = settings.unpaid_order_life
        self._unpaid_limit = settings.unpaid_orders_per_buyer
        self._room = asyncio.Semaphore(bulkheads.shares(settings.database_pool_size)["calls"])

    async def place(self, request: PlaceOrderRequest, call: Call) -> OrderMessage:
        """Places the order of a call, or returns the order that an earlier call with the same key placed.

        Raises FailedPrecondition when catalog refuses, and ResourceExhausted when the call's turn does not come in
        time or the buyer has too many unpaid orders. In both cases nothing is written.
        """
        order_id, buyer_id = UUID(call.operation_id), UUID(call.caller.user_id)
        async with self._turn(call):
            placed = await self._place(order_id, buyer_id, request)
        if placed is not None:
            return placed
        return convert.order_message(await repository.get(self._database, order_id, buyer_id))

    @asynccontextmanager
    async def _turn(self, call: Call) -> AsyncIterator[None]:
        """Waits in line, first come, first served, while enough time remains to place an order afterwards."""
        try:
            async with asyncio.timeout(call.remaining() - _PLACING_SECONDS):
                await self._room.acquire()
        except TimeoutError:
            raise overloaded() from None
        try:
            yield
        finally:
            self._room.release()

    async def _place(self, order_id: UUID, buyer_id: UUID, request: PlaceOrderRequest) -> OrderMessage | None:
        """Writes the order and returns it; returns None when it already exists."""
        began = await repository.begin(self._database, buyer_id, self._unpaid_limit)
        hold = self._life + _LONGER_THAN_THE_ORDER
        reservation = await self._inventory.ReserveStock(convert.reservation(order_id, request, hold))
        order = NewOrder.place(
            order_id,
            buyer_id,
            convert.order_items(request.lines, reservation.prices),
            currency=reservation.prices[0].unit_price.currency_code,
            note=request.shipping_note,
            at=began,
            payable_for=self._life,
        )
        async with self._database.unit_of_work() as work:
            if not await repository.place(work, order):
                return None
            work.publish(convert.order_placed(order), version=order.version)
            return work.answer(convert.placed_message(order))
