"""The saga of an order: prices, a row, its stock, a verdict.

placing ─ ReserveStock ─┬─ held ────→ pending_payment, OrderPlaced
                        ├─ refused ─→ rejected
                        └─ unknown ─→ still placing: whoever holds the lease next asks again, by the same key
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from uuid import UUID

import grpc
from protomesh.catalog.v1.inventory_service_pb2 import QuotePricesRequest, QuotePricesResponse
from protomesh.ordering.v1.order_pb2 import Order as OrderMessage
from protomesh.ordering.v1.order_service_pb2 import PlaceOrderRequest

from chassis.core import FailedPrecondition, MeshError, from_rpc, overloaded
from chassis.data import Database
from chassis.observe import tracing
from chassis.rpc import Call
from services.ordering import convert, repository
from services.ordering.model import Order

if TYPE_CHECKING:  # the stubs' type information knows this name, the module does not
    from protomesh.catalog.v1.inventory_service_pb2_grpc import InventoryServiceAsyncStub

# Answers that asking again does not change; all others leave it open whether the stock is held.
_REFUSALS = frozenset(
    {grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT}
)
# What an order is given from its turn to its verdict.
_PLACING_SECONDS = 4.0
_POLL_SECONDS = 1.0
_BATCH = 20

_log = logging.getLogger(__name__)


class Placement:
    """Brings orders from their placing to a verdict, and recovers those whose process died on the way.

    `at_once` is how many orders are placed at a time. In a rush the others wait in line before their first step, and
    not between two of them, where the short deadlines of calls and connections run.
    """

    def __init__(self, database: Database, inventory: "InventoryServiceAsyncStub", at_once: int) -> None:
        self._database = database
        self._inventory = inventory
        self._room = asyncio.Semaphore(at_once)

    async def place(self, request: PlaceOrderRequest, call: Call) -> OrderMessage | None:
        """Brings the order that the call places to its verdict, from wherever an earlier call under its key left it.

        Answers it when it is accepted now; None when it is rejected, or was decided before or by another.
        FailedPrecondition when it cannot be placed, ResourceExhausted when its turn does not come in time: then
        nothing was written.
        """
        async with self._turn(call):
            if call.resumes:
                return await self.resume(UUID(call.operation_id))
            return await self._begin(UUID(call.operation_id), UUID(call.caller.user_id), request)

    @asynccontextmanager
    async def _turn(self, call: Call) -> AsyncIterator[None]:
        """Waits in line, first come, first served, as long as time remains to place an order after it."""
        try:
            async with asyncio.timeout(call.remaining() - _PLACING_SECONDS):
                await self._room.acquire()
        except TimeoutError:
            raise overloaded() from None
        try:
            yield
        finally:
            self._room.release()

    async def _begin(self, order_id: UUID, buyer_id: UUID, request: PlaceOrderRequest) -> OrderMessage | None:
        """Writes a new order at today's prices and goes on with it."""
        quote = await self._inventory.QuotePrices(
            QuotePricesRequest(product_ids=[line.product_id for line in request.lines])
        )
        _refuse_what_is_not_there(request, quote)
        items = convert.order_items(request.lines, quote.prices)
        currency = quote.prices[0].unit_price.currency_code
        order = Order.place(order_id, buyer_id, currency, items, request.shipping_note)
        async with self._database.unit_of_work() as work:
            token = await repository.place(work, order)
        return await self._finish(order, token)

    async def resume(self, order_id: UUID) -> OrderMessage | None:
        """Takes an undecided order over from whoever works on it, and goes on with it; None when it is decided."""
        async with self._database.unit_of_work() as work:
            token = await repository.take_over_saga(work, order_id)
            if token is None:
                return None
            [order] = await repository.with_items(work, [order_id])
        return await self._finish(order, token)

    async def recover(self) -> None:
        """For ever finishes orders whose lease ran out, since whoever held it died or lost its way."""
        while True:
            try:
                found = await self._recover_batch()
            except Exception:  # noqa: BLE001 (whatever it was, other orders wait)
                _log.exception("recovery of orders failed; it goes on")
                found = 0
            if found < _BATCH:
                await asyncio.sleep(_POLL_SECONDS)

    async def _recover_batch(self) -> int:
        async with self._database.unit_of_work() as work:
            tokens = await repository.claim_abandoned_sagas(work, _BATCH)
            orders = await repository.with_items(work, tokens)
        await asyncio.gather(*(self._recover_one(order, tokens[order.id]) for order in orders))
        return len(orders)

    async def _recover_one(self, order: Order, fencing_token: int) -> None:
        with tracing.span("recover order", attributes={"order.id": str(order.id)}):
            try:
                await self._finish(order, fencing_token)
            except Exception as error:  # noqa: BLE001 (whatever it was, the next attempt may go better)
                _log.warning("order %s stays undecided for now: %s", order.id, type(error).__name__)
                async with self._database.unit_of_work() as work:
                    await repository.defer_saga(work, order.id, fencing_token, _POLL_SECONDS)

    async def _finish(self, order: Order, fencing_token: int) -> OrderMessage | None:
        """Decides the order, unless another did; answers it when it is accepted."""
        refusal = await self._reserve(order)
        if refusal is None:
            order.accept()
        else:
            order.reject(refusal)
        async with self._database.unit_of_work() as work:
            if not await repository.decide(work, order, fencing_token) or refusal is not None:
                return None
            work.publish(convert.order_placed(order), version=order.version)
            return work.answer(convert.placed_message(order))

    async def _reserve(self, order: Order) -> MeshError | None:
        """Why the stock is refused; None when it is held. An unknown outcome is raised."""
        try:
            await self._inventory.ReserveStock(convert.reservation(order))
        except grpc.aio.AioRpcError as error:
            if error.code() not in _REFUSALS:
                raise
            return from_rpc(error)
        return None


def _refuse_what_is_not_there(request: PlaceOrderRequest, quote: QuotePricesResponse) -> None:
    """FailedPrecondition OUT_OF_STOCK when a line wants more than there is: most who come too late cost no more."""
    for line, price in zip(request.lines, quote.prices, strict=True):
        if price.available < line.quantity:
            metadata = {"product_id": line.product_id, "available": str(price.available)}
            sentence = "Fewer units are there than are wanted."
            raise FailedPrecondition("OUT_OF_STOCK", sentence, metadata=metadata)
