"""The servicer of ReconciliationService, with its queries, which read rows as they are and are used only here."""

from uuid import UUID

from protomesh.catalog.v1.inventory_service_pb2 import StockLine
from protomesh.catalog.v1.reconciliation_service_pb2 import (
    RecordedReservation,
    ScanReservationsRequest,
    ScanReservationsResponse,
    ScanStockRequest,
    ScanStockResponse,
    StockContradiction,
)
from sqlalchemy import ColumnElement, Uuid, bindparam, case, func, literal_column, select, true
from sqlalchemy.dialects.postgresql import aggregate_order_by

from chassis.core import timestamp
from chassis.data import Database, Query, Row
from chassis.rpc import Call
from services.catalog import convert
from services.catalog.model import Reservation, ReservationLine, ReservationStatus, Stock

_FIRST = UUID(int=0)
_AFTER = bindparam("after", type_=Uuid, required=True)

_line = func.jsonb_build_array(ReservationLine.product_id, ReservationLine.quantity)
_LINES = (
    select(func.jsonb_agg(aggregate_order_by(_line, ReservationLine.product_id)))
    .where(ReservationLine.order_id == Reservation.order_id)
    .scalar_subquery()
)
_RESERVATIONS = Query(
    select(Reservation.order_id, Reservation.status, Reservation.updated_at, _LINES.label("lines"))
    .where(Reservation.order_id > _AFTER)
    .order_by(Reservation.order_id)
    .limit(bindparam("limit", required=True))
)


def _units(status: ReservationStatus) -> ColumnElement[int]:
    quantity = case((Reservation.status == literal_column(f"'{status.value}'"), ReservationLine.quantity))
    return func.coalesce(func.sum(quantity), literal_column("0"))


_RESERVED = (
    select(
        _units(ReservationStatus.HELD).label("held"), _units(ReservationStatus.COMMITTED).label("committed")
    )
    .join_from(ReservationLine, Reservation, Reservation.order_id == ReservationLine.order_id)
    .where(ReservationLine.product_id == Stock.product_id)
    .lateral("reservations_of_product")
)
_STOCK = Query(
    select(*Stock.__table__.columns, _RESERVED.c.held, _RESERVED.c.committed)
    .join(_RESERVED, true())
    .where(Stock.product_id > _AFTER)
    .order_by(Stock.product_id)
    .limit(bindparam("limit", required=True))
)


class ReconciliationService:
    """Returns what is on record, page by page, so that neither side holds more than a page."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def ScanReservations(
        self, request: ScanReservationsRequest, call: Call
    ) -> ScanReservationsResponse:
        after = UUID(request.after_order_id) if request.after_order_id else _FIRST
        rows = await self._database.all(_RESERVATIONS, after=after, limit=request.limit)
        return ScanReservationsResponse(reservations=map(_reservation, rows))

    async def ScanStock(self, request: ScanStockRequest, call: Call) -> ScanStockResponse:
        after = UUID(request.after_product_id) if request.after_product_id else _FIRST
        rows = await self._database.all(_STOCK, after=after, limit=request.limit)
        return ScanStockResponse(
            contradictions=[_contradiction(row) for row in rows if _contradicts(row)],
            last_product_id=str(rows[-1].product_id) if rows else "",
        )


def _reservation(row: Row) -> RecordedReservation:
    lines = [StockLine(product_id=product, quantity=units) for product, units in row.lines or ()]
    return RecordedReservation(
        order_id=str(row.order_id), status=row.status, lines=lines, updated_at=timestamp(row.updated_at)
    )


def _contradicts(row: Row) -> bool:
    adds_up = row.available >= 0 and row.available + row.reserved + row.sold == row.received
    return not adds_up or (row.reserved, row.sold) != (row.held, row.committed)


def _contradiction(row: Row) -> StockContradiction:
    return StockContradiction(stock=convert.stock_message(row), held=int(row.held), sold=int(row.committed))
