"""The servicer of InventoryService."""

import asyncio
from collections.abc import Sequence
from datetime import UTC
from uuid import UUID

from protomesh.catalog.v1.inventory_service_pb2 import (
    AdjustStockRequest,
    CommitStockRequest,
    ExpireReservationsRequest,
    ExpireReservationsResponse,
    FindReservationsRequest,
    FindReservationsResponse,
    GetStockRequest,
    ReleaseStockRequest,
    Reservation,
    ReserveStockRequest,
    Stock,
)

from chassis.core import Aborted, InvalidArgument, NotFound
from chassis.data import Database, Row
from chassis.rpc import Call
from services.catalog import convert, expiry_repository, repository, reservation_repository, stock_repository
from services.catalog.model import ReservationStatus
from services.catalog.pricing import Lines, Wanted

# An attempt fails only when another buyer got the stock first, or with a reason that is raised as an error.
RESERVE_ATTEMPTS = 5
# Buyers wait for their turn here and not for a connection, so that a rush on one product leaves connections for others.
RESERVING_AT_ONCE = 4


class InventoryService:
    """Stock: received, promised to orders, sold or released, and never promised twice."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._turns = asyncio.Semaphore(RESERVING_AT_ONCE)

    async def ReserveStock(self, request: ReserveStockRequest, call: Call) -> Reservation:
        wanted = convert.wanted(request)
        async with self._turns:
            prices = await self._reserve(wanted)
        if not prices:
            return await self._repeated(wanted)
        return convert.reservation_message(wanted.order_id, ReservationStatus.HELD, wanted.lines, prices)

    async def CommitStock(self, request: CommitStockRequest, call: Call) -> Reservation:
        order_id = UUID(request.order_id)
        async with self._database.unit_of_work() as work:
            await reservation_repository.end(work, order_id, ReservationStatus.COMMITTED)
        status, lines = await self._reservation(order_id)
        if status is not ReservationStatus.COMMITTED:
            raise reservation_repository.closed(order_id, status)
        return convert.reservation_message(order_id, status, lines)

    async def ReleaseStock(self, request: ReleaseStockRequest, call: Call) -> Reservation:
        order_id = UUID(request.order_id)
        async with self._database.unit_of_work() as work:
            await reservation_repository.release(work, order_id)
        return convert.reservation_message(order_id, *await self._reservation(order_id))

    async def FindReservations(
        self, request: FindReservationsRequest, call: Call
    ) -> FindReservationsResponse:
        rows = await expiry_repository.held(
            self._database,
            request.held_for.ToTimedelta(),
            request.after.reserved_at.ToDatetime(UTC),
            UUID(request.after.order_id) if request.HasField("after") else UUID(int=0),
            request.limit,
        )
        return FindReservationsResponse(reservations=map(convert.held_message, rows))

    async def ExpireReservations(
        self, request: ExpireReservationsRequest, call: Call
    ) -> ExpireReservationsResponse:
        order_ids = [UUID(order_id) for order_id in request.order_ids]
        async with self._database.unit_of_work() as work:
            expired = await expiry_repository.expire(work, order_ids, request.held_for.ToTimedelta())
        return ExpireReservationsResponse(order_ids=map(str, expired))

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

    async def _reserve(self, wanted: Wanted) -> Sequence[Row]:
        """Reserves all lines and returns their prices; returns no prices when the order already has a reservation."""
        for _ in range(RESERVE_ATTEMPTS):
            prices = await reservation_repository.reserve(self._database, wanted)
            if prices or await self._is_reserved(wanted.order_id):
                return prices
            await reservation_repository.check_available(self._database, wanted)
        raise Aborted("CONFLICT", "Other buyers reserved the stock first; try again.", retry_after=0.1)

    async def _is_reserved(self, order_id: UUID) -> bool:
        found = await reservation_repository.reservation(self._database, order_id)
        return found is not None and found[0] is not ReservationStatus.EXPIRED

    async def _repeated(self, wanted: Wanted) -> Reservation:
        """Returns the reservation of an order that has reserved before, unless its lines were different then."""
        async with self._database.unit_of_work() as work:
            still_held = await reservation_repository.hold_longer(work, wanted)
        status, lines = await self._reservation(wanted.order_id)
        if status is ReservationStatus.RELEASED:
            raise reservation_repository.closed(wanted.order_id, status)
        if not still_held and status is not ReservationStatus.COMMITTED:
            raise Aborted("CONFLICT", "The reservation expired just now; try again.", retry_after=0.1)
        if lines != wanted.lines:
            raise InvalidArgument(
                "IDEMPOTENCY_KEY_REUSED", "The order has already reserved other lines; use a new order id."
            )
        prices = await reservation_repository.prices(self._database, wanted)
        return convert.reservation_message(wanted.order_id, status, lines, prices)

    async def _reservation(self, order_id: UUID) -> tuple[ReservationStatus, Lines]:
        found = await reservation_repository.reservation(self._database, order_id)
        if found is None:
            metadata = {"order_id": str(order_id)}
            raise NotFound("RESERVATION_NOT_FOUND", "The order has no reservation.", metadata=metadata)
        return found
