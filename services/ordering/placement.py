"""The saga of an order: prices, a row, its stock, a verdict.

placing ─ ReserveStock ─┬─ held ────→ pending_payment, OrderPlaced
                        ├─ refused ─→ rejected
                        └─ unknown ─→ still placing: whoever holds the lease next asks again, by the same key
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID

import grpc
from protomesh.catalog.v1.inventory_service_pb2 import (
    QuotePricesRequest,
    QuotePricesResponse,
    ReserveStockRequest,
    StockLine,
)
from protomesh.ordering.v1.order_pb2 import Order as OrderMessage
from protomesh.ordering.v1.order_service_pb2 import PlaceOrderRequest

from chassis.call import Call
from chassis.database import Database
from chassis.errors import FailedPrecondition, MeshError, from_rpc, overloaded
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


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to bring an order on, until somebody takes it over with a greater fencing token."""

    order_id: UUID
    fencing_token: int


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
        async with self._database.unit_of_work() as work:
            work.add(Order.place(order_id, buyer_id, currency, items, request.shipping_note))
            token = await repository.begin_saga(work, order_id)
        return await self._finish(Lease(order_id, token), convert.stock_lines(request.lines))

    async def resume(self, order_id: UUID) -> OrderMessage | None:
        """Takes an undecided order over from whoever works on it, and goes on with it; None when it is decided."""
        async with self._database.unit_of_work() as work:
            token = await repository.take_over_saga(work, order_id)
        return None if token is None else await self._finish_again(Lease(order_id, token))

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
            leases = [Lease(*claim) for claim in await repository.claim_abandoned_sagas(work, _BATCH)]
        await asyncio.gather(*(self._recover_one(lease) for lease in leases))
        return len(leases)

    async def _recover_one(self, lease: Lease) -> None:
        try:
            await self._finish_again(lease)
        except Exception as error:  # noqa: BLE001 (whatever it was, the next attempt may go better)
            _log.warning("order %s stays undecided for now: %s", lease.order_id, type(error).__name__)
            async with self._database.unit_of_work() as work:
                await repository.defer_saga(work, lease.order_id, lease.fencing_token, _POLL_SECONDS)

    async def _finish_again(self, lease: Lease) -> OrderMessage | None:
        lines = await repository.lines_of(self._database, lease.order_id)
        return await self._finish(lease, convert.stock_lines(lines))

    async def _finish(self, lease: Lease, lines: Sequence[StockLine]) -> OrderMessage | None:
        """Decides the order, unless another did; answers it when it is accepted."""
        refusal = await self._reserve(lease.order_id, lines)
        async with self._database.unit_of_work() as work:
            # First the order, then its saga, as a cancellation does: so the two cannot deadlock.
            order = await repository.lock(work, lease.order_id)
            if not await repository.end_saga(work, lease.order_id, lease.fencing_token):
                return None
            if refusal is not None:
                order.reject(refusal)
                return None
            order.accept()
            work.publish(convert.order_placed(order), version=order.version)
            return work.answer(convert.order_message(await repository.written(work, order.id)))

    async def _reserve(self, order_id: UUID, lines: Sequence[StockLine]) -> MeshError | None:
        """Why the stock is refused; None when it is held. An unknown outcome is raised."""
        try:
            await self._inventory.ReserveStock(ReserveStockRequest(order_id=str(order_id), lines=lines))
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
