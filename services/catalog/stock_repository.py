"""The SQL of stock.

Every statement that changes stock takes its rows in the order of product ids, so that no two of them wait for each
other, and writes the ledger in the same breath.
"""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from sqlalchemy import ARRAY, Uuid, any_, bindparam, select, text
from sqlalchemy.dialects.postgresql import insert

from chassis.core import Aborted, FailedPrecondition, InvalidArgument, MeshError, NotFound
from chassis.data import Database, Query, Row, UnitOfWork
from services.catalog.model import (
    Product,
    ProductStatus,
    Reservation,
    ReservationLine,
    ReservationStatus,
    Stock,
)

Lines = Mapping[UUID, int]

_ANY_PRODUCT = Product.id == any_(bindparam("product_ids", type_=ARRAY(Uuid)))

GET_STOCK = Query(select(*Stock.__table__.columns).where(Stock.product_id == bindparam("product_id")))
PRICES = Query(
    select(
        Product.id,
        Product.sku,
        Product.name,
        Product.currency_code,
        Product.price_minor,
        Product.status,
        Stock.available,
    )
    .join_from(Product, Stock, Stock.product_id == Product.id)
    .where(_ANY_PRODUCT)
)
_ON_SALE = Query(
    select(Product.id, Stock.available)
    .join_from(Product, Stock, Stock.product_id == Product.id)
    .where(_ANY_PRODUCT, Product.status == ProductStatus.ACTIVE.value)
)
_RESERVATION = Query(
    select(Reservation.status, ReservationLine.product_id, ReservationLine.quantity)
    .join_from(Reservation, ReservationLine, isouter=True)
    .where(Reservation.order_id == bindparam("order_id"))
    .order_by(ReservationLine.product_id)
)

# The rows of `held` are locked, then changed under the same condition again; whoever waited for another buyer there
# sees what that one left. A line that cannot be had is missing in the count, and the transaction is rolled back.
_RESERVE = text("""
    WITH claim AS (
        INSERT INTO reservations (order_id, status) VALUES (:order_id, 'held')
        ON CONFLICT (order_id) DO NOTHING RETURNING order_id
    ), held AS (
        SELECT stock.product_id, line.quantity
        FROM unnest(CAST(:product_ids AS uuid[]), CAST(:quantities AS bigint[])) AS line (product_id, quantity)
        JOIN products ON products.id = line.product_id AND products.status = 'active'
        JOIN stock ON stock.product_id = line.product_id AND stock.available >= line.quantity
        WHERE EXISTS (SELECT FROM claim)
        ORDER BY stock.product_id FOR NO KEY UPDATE OF stock
    ), taken AS (
        UPDATE stock SET available = available - held.quantity, reserved = reserved + held.quantity
        FROM held WHERE stock.product_id = held.product_id AND stock.available >= held.quantity
        RETURNING stock.product_id, held.quantity
    ), lines AS (
        INSERT INTO reservation_lines (order_id, product_id, quantity)
        SELECT :order_id, product_id, quantity FROM taken
    ), moved AS (
        INSERT INTO stock_movements (product_id, order_id, kind, quantity)
        SELECT product_id, :order_id, 'reserved', quantity FROM taken
    )
    SELECT (SELECT count(*) FROM claim) AS claimed, (SELECT count(*) FROM taken) AS taken
    """)

# Ends a reservation that holds: its units go back (released) or out (committed).
_END = text("""
    WITH ended AS (
        UPDATE reservations SET status = :status, updated_at = now()
        WHERE order_id = :order_id AND status = 'held' RETURNING order_id
    ), held AS (
        SELECT line.product_id, line.quantity
        FROM ended JOIN reservation_lines line USING (order_id) JOIN stock USING (product_id)
        ORDER BY line.product_id FOR NO KEY UPDATE OF stock
    ), given AS (
        UPDATE stock SET reserved = reserved - held.quantity,
            available = available + CASE WHEN :status = 'released' THEN held.quantity ELSE 0 END,
            sold = sold + CASE WHEN :status = 'committed' THEN held.quantity ELSE 0 END
        FROM held WHERE stock.product_id = held.product_id
        RETURNING stock.product_id, held.quantity
    ), moved AS (
        INSERT INTO stock_movements (product_id, order_id, kind, quantity)
        SELECT product_id, :order_id, :status, quantity FROM given
    )
    SELECT count(*) AS ended FROM ended
    """)

_ADJUST = text("""
    WITH adjusted AS (
        UPDATE stock SET available = available + :delta, received = received + :delta
        WHERE product_id = :product_id AND available + :delta >= 0 AND received + :delta <= 1000000000
        RETURNING product_id, available, reserved, sold, received
    ), moved AS (
        INSERT INTO stock_movements (product_id, kind, quantity, reason, actor_id)
        SELECT product_id, 'received', :delta, :reason, :actor_id FROM adjusted
    )
    SELECT * FROM adjusted
    """)


async def reservation(database: Database, order_id: UUID) -> tuple[ReservationStatus, Lines] | None:
    """Where an order's reservation stands and what it holds or held; None when there is none."""
    rows = await database.all(_RESERVATION, order_id=order_id)
    if not rows:
        return None
    return ReservationStatus(rows[0].status), {row.product_id: row.quantity for row in rows if row.product_id}


async def check_available(database: Database, lines: Lines) -> None:
    """Refuses lines that cannot be had now. FailedPrecondition PRODUCT_NOT_FOR_SALE or OUT_OF_STOCK."""
    on_sale = {row.id: row.available for row in await database.all(_ON_SALE, product_ids=list(lines))}
    for product_id, quantity in lines.items():
        if product_id not in on_sale:
            raise not_for_sale(product_id)
        if on_sale[product_id] < quantity:
            raise out_of_stock(product_id, on_sale[product_id])


async def reserve(work: UnitOfWork, order_id: UUID, lines: Lines) -> bool:
    """Reserves all lines; False when the order has a reservation already, also one that was just made.

    Aborted CONFLICT when another buyer took what was there a moment ago.
    """
    values = {"order_id": order_id, "product_ids": list(lines), "quantities": list(lines.values())}
    outcome = (await work.execute(_RESERVE, values)).one()
    if outcome.claimed and outcome.taken < len(lines):
        raise Aborted("CONFLICT", "Somebody else was faster; try again.", retry_after=0.1)
    return bool(outcome.claimed)


async def end(work: UnitOfWork, order_id: UUID, status: ReservationStatus) -> bool:
    """Commits or releases a reservation that holds; False when it does not hold, or there is none."""
    outcome = await work.execute(_END, {"order_id": order_id, "status": status.value})
    return bool(outcome.one().ended)


async def release(work: UnitOfWork, order_id: UUID) -> None:
    """Gives back what an order holds, and closes an order that never reserved, so that it cannot any more.

    FailedPrecondition RESERVATION_CLOSED when the units are sold.
    """
    # A call to reserve that is under way is waited for here, so that its units are seen below.
    values = {"order_id": order_id, "status": ReservationStatus.RELEASED.value}
    closing = insert(Reservation).values(values).on_conflict_do_nothing().returning(Reservation.order_id)
    if (await work.execute(closing)).first() or await end(work, order_id, ReservationStatus.RELEASED):
        return
    status = (
        await work.execute(select(Reservation.status).where(Reservation.order_id == order_id))
    ).scalar_one()
    if status != ReservationStatus.RELEASED:
        raise closed(order_id, ReservationStatus(status))


async def adjust(work: UnitOfWork, product_id: UUID, delta: int, reason: str, actor_id: str) -> Row:
    """Receives units, or writes them off; the stock afterwards.

    NotFound PRODUCT_NOT_FOUND; FailedPrecondition OUT_OF_STOCK or STOCK_TOO_LARGE.
    """
    values = {"product_id": product_id, "delta": delta, "reason": reason, "actor_id": actor_id}
    adjusted = (await work.execute(_ADJUST, values)).first()
    if adjusted is None:
        raise await _refusal(work, product_id, delta)
    return adjusted


async def receive_first(work: UnitOfWork, received: Lines, actor_id: str) -> None:
    """Gives new products their stock, which may be 0."""
    if not received:
        return
    rows: list[dict[str, Any]] = [
        {"product_id": product, "available": units, "received": units, "reserved": 0, "sold": 0}
        for product, units in received.items()
    ]
    await work.execute(insert(Stock), rows)
    if arrived := [
        {"product_id": product, "units": units, "actor_id": actor_id}
        for product, units in received.items()
        if units
    ]:
        await work.execute(_RECEIVED_FIRST, arrived)


_RECEIVED_FIRST = text("""
    INSERT INTO stock_movements (product_id, kind, quantity, reason, actor_id)
    VALUES (:product_id, 'received', :units, 'initial stock', :actor_id)
    """)


async def _refusal(work: UnitOfWork, product_id: UUID, delta: int) -> MeshError:
    stock = await work.get(Stock, product_id)
    if stock is None:
        return NotFound("PRODUCT_NOT_FOUND", "No such product.")
    if stock.available + delta < 0:
        return out_of_stock(product_id, stock.available)
    return FailedPrecondition(
        "STOCK_TOO_LARGE", "That is more than can be counted.", metadata={"product_id": str(product_id)}
    )


def not_for_sale(product_id: UUID) -> FailedPrecondition:
    """The product does not exist or is not for sale."""
    metadata = {"product_id": str(product_id)}
    return FailedPrecondition("PRODUCT_NOT_FOR_SALE", "A product is not for sale.", metadata=metadata)


def out_of_stock(product_id: UUID, available: int) -> FailedPrecondition:
    """Fewer units are there than are wanted."""
    metadata = {"product_id": str(product_id), "available": str(available)}
    return FailedPrecondition("OUT_OF_STOCK", "Fewer units are there than are wanted.", metadata=metadata)


def closed(order_id: UUID, status: ReservationStatus) -> FailedPrecondition:
    """The order's units went back, or out, before."""
    metadata = {"order_id": str(order_id), "status": status.value}
    return FailedPrecondition(
        "RESERVATION_CLOSED", f"The order's stock was {status.value} before.", metadata=metadata
    )


def other_lines() -> InvalidArgument:
    """The order reserved something else before."""
    return InvalidArgument("IDEMPOTENCY_KEY_REUSED", "The order reserved other lines before.")
