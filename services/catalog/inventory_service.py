"""The servicer of InventoryService."""

import asyncio
from uuid import UUID

from protomesh.catalog.v1.inventory_service_pb2 import (
    AdjustStockRequest,
    CommitStockRequest,
    GetStockRequest,
    QuotePricesRequest,
    QuotePricesResponse,
    ReleaseStockRequest,
    Reservation,
    ReserveStockRequest,
    Stock,
)

from chassis.core import Aborted, FailedPrecondition, NotFound
from chassis.data import Database
from chassis.rpc import Call
from services.catalog import convert, repository, stock_repository
from services.catalog.model import ProductStatus, ReservationStatus
from services.catalog.stock_repository import Lines

# Each attempt that fails was overtaken by a buyer who got something, or the reason is found and said.
RESERVE_ATTEMPTS = 5
# Buyers wait for their turn here and not for a connection: a rush on one product leaves connections to everybody else.
RESERVING_AT_ONCE = 4


class InventoryService:
    """Stock: received, promised to orders, sold or given back, and never promised twice."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._turns = asyncio.Semaphore(RESERVING_AT_ONCE)

    async def QuotePrices(self, request: QuotePricesRequest, call: Call) -> QuotePricesResponse:
        ids = [UUID(product_id) for product_id in request.product_ids]
        rows = {row.id: row for row in await self._database.all(stock_repository.PRICES, product_ids=ids)}
        for product_id in ids:
            if product_id not in rows or rows[product_id].status != ProductStatus.ACTIVE:
                raise stock_repository.not_for_sale(product_id)
        currencies = sorted({row.currency_code for row in rows.values()})
        if len(currencies) > 1:
            sentence = "The products are priced in several currencies."
            raise FailedPrecondition(
                "CURRENCY_MIXED", sentence, metadata={"currencies": ",".join(currencies)}
            )
        return QuotePricesResponse(prices=[convert.price_message(rows[product_id]) for product_id in ids])

    async def ReserveStock(self, request: ReserveStockRequest, call: Call) -> Reservation:
        order_id, lines = UUID(request.order_id), convert.lines(request.lines)
        async with self._turns:
            fresh = await self._reserve(order_id, lines)
        if fresh:
            return convert.reservation_message(order_id, ReservationStatus.HELD, lines)
        return await self._repeated(order_id, lines)

    async def CommitStock(self, request: CommitStockRequest, call: Call) -> Reservation:
        order_id = UUID(request.order_id)
        async with self._database.unit_of_work() as work:
            await stock_repository.end(work, order_id, ReservationStatus.COMMITTED)
        status, lines = await self._reservation(order_id)
        if status is not ReservationStatus.COMMITTED:
            raise stock_repository.closed(order_id, status)
        return convert.reservation_message(order_id, status, lines)

    async def ReleaseStock(self, request: ReleaseStockRequest, call: Call) -> Reservation:
        order_id = UUID(request.order_id)
        async with self._database.unit_of_work() as work:
            await stock_repository.release(work, order_id)
        return convert.reservation_message(order_id, *await self._reservation(order_id))

    async def GetStock(self, request: GetStockRequest, call: Call) -> Stock:
        row = await self._database.one(stock_repository.GET_STOCK, product_id=UUID(request.product_id))
        if row is None:
            raise repository.product_not_found()
        return convert.stock_message(row)

    async def AdjustStock(self, request: AdjustStockRequest, call: Call) -> Stock:
        async with self._database.unit_of_work() as work:
            stock = await stock_repository.adjust(
                work, UUID(request.product_id), request.delta, request.reason, call.caller.user_id
            )
            return work.answer(convert.stock_message(stock))

    async def _reserve(self, order_id: UUID, lines: Lines) -> bool:
        """Reserves all lines; False when the order has a reservation already."""
        for _ in range(RESERVE_ATTEMPTS):
            try:
                # A look costs a tenth of a transaction, and most buyers in a rush come too late.
                await stock_repository.check_available(self._database, lines)
                async with self._database.unit_of_work() as work:
                    return await stock_repository.reserve(work, order_id, lines)
            except FailedPrecondition:
                if await stock_repository.reservation(self._database, order_id) is None:
                    raise
                return False
            except Aborted:
                continue
        raise Aborted("CONFLICT", "Other buyers were faster; try again.", retry_after=0.1)

    async def _repeated(self, order_id: UUID, lines: Lines) -> Reservation:
        """The answer to an order that came before: what it holds, unless it asked for something else then."""
        status, held = await self._reservation(order_id)
        if status is ReservationStatus.RELEASED:
            raise stock_repository.closed(order_id, status)
        if held != lines:
            raise stock_repository.other_lines()
        return convert.reservation_message(order_id, status, held)

    async def _reservation(self, order_id: UUID) -> tuple[ReservationStatus, Lines]:
        found = await stock_repository.reservation(self._database, order_id)
        if found is None:
            metadata = {"order_id": str(order_id)}
            raise NotFound("RESERVATION_NOT_FOUND", "Nothing was reserved for the order.", metadata=metadata)
        return found
