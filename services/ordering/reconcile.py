"""`python -m services.ordering.reconcile` compares orders with their reservations in catalog: the two must agree.

Ordering reads its own rows and asks catalog for its rows. Both are sorted by id and read a page at a time, so that
neither side has to fit into memory. Recent changes, within the grace period, are skipped because the two sides are not
read at the same instant.
"""

import asyncio
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import grpc
import typer
from protomesh.catalog.v1.reconciliation_service_pb2 import (
    RecordedReservation,
    ScanReservationsRequest,
    ScanStockRequest,
)
from protomesh.catalog.v1.reconciliation_service_pb2_grpc import ReconciliationServiceStub

from chassis.core import Settings, from_rpc
from chassis.data import Database, Row
from chassis.rpc import MeshChannel
from services.ordering import recorded

# The remains of an order after a crash are cleaned up within 30 s, and events are sent within seconds.
GRACE_SECONDS = 60.0
PAGE = 500
# Catalog sums the reservations of all these products within the time limit of one statement.
STOCK_PAGE = 50

# The status of the reservation of an order with this status; None means no reservation.
_HOLDS: dict[str, frozenset[str | None]] = {
    "pending_payment": frozenset({"held"}),
    "cancelled": frozenset({"released"}),
    "expired": frozenset({"released"}),
}


@dataclass(frozen=True, slots=True)
class Finding:
    """Something on which the services disagree: a product's or an order's id, and a sentence."""

    id: str
    sentence: str


async def compare(
    database: Database, catalog: Any, grace_seconds: float = GRACE_SECONDS
) -> AsyncIterator[Finding]:
    """Yields every disagreement; `catalog` is the stub of its ReconciliationService. Raises errors of either side."""
    until = datetime.now(UTC) - timedelta(seconds=grace_seconds)
    orders, reservations = recorded.orders(database, PAGE), _reservations(catalog)
    async for order_id, order, reservation in _side_by_side(orders, reservations):
        moments = [order.updated_at] if order else []
        if reservation:
            moments.append(reservation.updated_at.ToDatetime(tzinfo=UTC))
        if max(moments) < until:
            for sentence in _contradictions(order, reservation):
                yield Finding(order_id, sentence)
    async for row in recorded.events(database, PAGE, until):
        state = "not sent" if row.unsent and row.written == 1 else f"written {row.written} times"
        yield Finding(str(row.id), f"the event {row.event} is {state}")
    async for finding in _stock(catalog):
        yield finding


def _contradictions(order: Row | None, reservation: RecordedReservation | None) -> list[str]:
    held = reservation.status if reservation else None
    if order is None:
        known = f"catalog has a reservation ({held}) for an order that ordering does not know"
        return [] if held in ("released", "expired") else [known]
    if order.status in _HOLDS and held not in _HOLDS[order.status]:
        return [f"the order is {order.status}, its reservation {held or 'missing'}"]
    if reservation and held == "held" and (lines := _lines(reservation)) != order.lines:
        return [f"the order is for {order.lines}, its reservation for {lines}"]
    return []


def _lines(reservation: RecordedReservation) -> str:
    return " ".join(f"{line.product_id}×{line.quantity}" for line in reservation.lines)


async def _side_by_side(
    orders: AsyncIterator[Row], reservations: AsyncIterator[RecordedReservation]
) -> AsyncIterator[tuple[str, Row | None, RecordedReservation | None]]:
    """Yields (order id, order or None, reservation or None) from two streams that are sorted by id."""
    order, reservation = await anext(orders, None), await anext(reservations, None)
    while order is not None or reservation is not None:
        ids = [str(order.id)] if order is not None else []
        first = min([*ids, reservation.order_id] if reservation is not None else ids)
        mine = order if order is not None and str(order.id) == first else None
        theirs = reservation if reservation is not None and reservation.order_id == first else None
        yield first, mine, theirs
        order = await anext(orders, None) if mine is not None else order
        reservation = await anext(reservations, None) if theirs is not None else reservation


async def _reservations(catalog: Any) -> AsyncIterator[RecordedReservation]:
    after, more = "", True
    while more:
        page = await catalog.ScanReservations(ScanReservationsRequest(after_order_id=after, limit=PAGE))
        for reservation in page.reservations:
            yield reservation
            after = reservation.order_id
        more = len(page.reservations) == PAGE


async def _stock(catalog: Any) -> AsyncIterator[Finding]:
    after = ""
    while True:
        page = await catalog.ScanStock(ScanStockRequest(after_product_id=after, limit=STOCK_PAGE))
        for found in page.contradictions:
            stock = found.stock
            yield Finding(
                stock.product_id,
                f"stock says {stock.available} available + {stock.reserved} reserved + {stock.sold} sold of "
                f"{stock.received} received; reservations hold {found.held} and sold {found.sold}",
            )
        if not (after := page.last_product_id):
            return


async def _print_findings(settings: Settings, grace: float) -> int:
    count = 0
    channel = MeshChannel(settings)
    try:
        async with Database.of(settings) as database:
            async for finding in compare(database, ReconciliationServiceStub(channel), grace):
                print(f"{finding.id}: {finding.sentence}")
                count += 1
    finally:
        await channel.close()
    return count


def reconcile(
    grace: Annotated[float, typer.Option(help="Skip what changed within this many seconds.")] = GRACE_SECONDS,
) -> None:
    """Compares the records of ordering and catalog about each order. Exit code 1 when they disagree."""
    try:
        count = asyncio.run(_print_findings(Settings(service="ordering"), grace))
    except grpc.aio.AioRpcError as error:
        sys.exit(f"Catalog could not be queried: {from_rpc(error).message}")
    print(f"{count} findings" if count else "ordering and catalog agree")
    if count:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(reconcile)
