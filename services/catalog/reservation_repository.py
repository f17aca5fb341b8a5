"""The SQL of reservations; the SQL that expires them is in expiry_repository.py.

Every statement locks the rows of stock in the order of product ids, so that no two of them deadlock, and writes the
ledger in the same statement.
"""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import ARRAY, Uuid, any_, bindparam, select, text

from chassis.core import FailedPrecondition
from chassis.data import Database, Prepared, Query, Row, UnitOfWork
from services.catalog.model import (
    Product,
    ProductStatus,
    Reservation,
    ReservationLine,
    ReservationStatus,
    Stock,
)
from services.catalog.pricing import Lines, Wanted
from services.catalog.stock_repository import out_of_stock

_ANY_PRODUCT = Product.id == any_(bindparam("product_ids", type_=ARRAY(Uuid)))
_PRICES = Query(
    select(
        Product.id.label("product_id"), Product.sku, Product.name, Product.currency_code, Product.price_minor
    ).where(_ANY_PRODUCT)
)
_ON_SALE = Query(
    select(Product.id.label("product_id"), Product.currency_code, Product.price_minor, Stock.available)
    .join_from(Product, Stock, Stock.product_id == Product.id)
    .where(_ANY_PRODUCT, Product.status == ProductStatus.ACTIVE.value)
)
_RESERVATION = Query(
    select(Reservation.status, ReservationLine.product_id, ReservationLine.quantity)
    .join_from(Reservation, ReservationLine, isouter=True)
    .where(Reservation.order_id == bindparam("order_id"))
    .order_by(ReservationLine.product_id)
)

# One statement takes all lines or nothing, so there is no transaction to open or to roll back. `held` locks each row
# that still has enough units after waiting for others; the rows are changed only when none is missing and their total
# is as expected. An order that has a reservation locks nothing, because releasing one locks the reservation's row first
# and the stock after it.
_RESERVE = Prepared(
    text("""
    WITH held AS (
        SELECT stock.product_id, line.quantity, sku, name, currency_code, price_minor
        FROM unnest(CAST(:product_ids AS uuid[]), CAST(:quantities AS bigint[])) AS line (product_id, quantity)
        JOIN products ON products.id = line.product_id AND products.status = 'active'
        JOIN stock ON stock.product_id = line.product_id AND stock.available >= line.quantity
        WHERE NOT EXISTS (SELECT FROM reservations WHERE order_id = :order_id AND status <> 'expired')
        ORDER BY stock.product_id FOR NO KEY UPDATE OF stock
    ), claim AS (
        INSERT INTO reservations (order_id, status, expires_at)
        SELECT :order_id, 'held', now() + :hold FROM held
        HAVING count(*) = cardinality(CAST(:product_ids AS uuid[])) AND count(DISTINCT currency_code) = 1
            AND min(currency_code) = coalesce(CAST(:currency_code AS text), min(currency_code))
            AND sum(quantity * price_minor) = coalesce(CAST(:total_minor AS numeric), sum(quantity * price_minor))
        ON CONFLICT (order_id) DO UPDATE SET status = 'held', expires_at = excluded.expires_at, updated_at = now(),
            reserved_at = now()
        WHERE reservations.status = 'expired'
        RETURNING order_id
    ), taken AS (
        UPDATE stock SET available = available - held.quantity, reserved = reserved + held.quantity
        FROM held, claim WHERE stock.product_id = held.product_id
        RETURNING held.*
    ), lines AS (
        INSERT INTO reservation_lines (order_id, product_id, quantity)
        SELECT :order_id, product_id, quantity FROM taken
    ), moved AS (
        INSERT INTO stock_movements (product_id, order_id, kind, quantity)
        SELECT product_id, :order_id, 'reserved', quantity FROM taken
    )
    SELECT * FROM taken ORDER BY product_id
    """)
)
# Closes an order that holds nothing: one that has never reserved, or whose reservation has expired.
_CLOSE = text("""
    INSERT INTO reservations (order_id, status, expires_at) VALUES (:order_id, 'released', now())
    ON CONFLICT (order_id) DO UPDATE SET status = 'released', updated_at = now()
    WHERE reservations.status = 'expired'
    RETURNING order_id
    """)
_HOLD_LONGER = text("""
    UPDATE reservations SET expires_at = now() + :hold, reserved_at = now()
    WHERE order_id = :order_id AND status = 'held' RETURNING order_id
    """)

# Ends a reservation that holds stock: its units become available again (released) or sold (committed).
_END = Prepared(
    text("""
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
)


async def reservation(database: Database, order_id: UUID) -> tuple[ReservationStatus, Lines] | None:
    """Returns the status of an order's reservation and what it holds or held; None when there is none."""
    rows = await database.all(_RESERVATION, order_id=order_id)
    if not rows:
        return None
    return ReservationStatus(rows[0].status), {row.product_id: row.quantity for row in rows if row.product_id}


async def check_available(database: Database, wanted: Wanted) -> None:
    """Raises the reason why an order cannot be reserved now, or not at the expected total.

    Raises FailedPrecondition PRODUCT_NOT_FOR_SALE, CURRENCY_MIXED, TOTAL_CHANGED or OUT_OF_STOCK.
    """
    rows = await database.all(_ON_SALE, product_ids=list(wanted.lines))
    on_sale = {row.product_id: row for row in rows}
    for product_id in wanted.lines:
        if product_id not in on_sale:
            raise not_for_sale(product_id)
    wanted.check_prices(rows)
    for product_id, quantity in wanted.lines.items():
        if on_sale[product_id].available < quantity:
            raise out_of_stock(product_id, on_sale[product_id].available)


async def reserve(database: Database, wanted: Wanted) -> Sequence[Row]:
    """Reserves all lines, and returns their prices.

    Returns None when that is not possible now, or when the order has a reservation that has not expired.
    """
    expected = wanted.expected_total
    values = {
        "order_id": wanted.order_id,
        "hold": wanted.hold,
        "product_ids": list(wanted.lines),
        "quantities": list(wanted.lines.values()),
        "currency_code": expected.currency_code if expected else None,
        "total_minor": expected.amount_minor if expected else None,
    }
    async with database.connection() as connection:
        return (await _RESERVE.execute(connection, values)).rows


async def hold_longer(work: UnitOfWork, wanted: Wanted) -> bool:
    """Restarts the time of a reservation; returns False when it no longer holds stock."""
    values = {"order_id": wanted.order_id, "hold": wanted.hold}
    return (await work.execute(_HOLD_LONGER, values)).first() is not None


async def prices(database: Database, wanted: Wanted) -> Sequence[Row]:
    """Returns the current prices of the lines. Raises FailedPrecondition CURRENCY_MIXED or TOTAL_CHANGED."""
    rows = await database.all(_PRICES, product_ids=list(wanted.lines))
    wanted.check_prices(rows)
    return rows


async def end(work: UnitOfWork, order_id: UUID, status: ReservationStatus) -> bool:
    """Commits or releases a reservation; returns False when it does not hold stock, or there is none."""
    outcome = await work.one(_END, order_id=order_id, status=status.value)
    return outcome is not None and bool(outcome.ended)


async def release(work: UnitOfWork, order_id: UUID) -> None:
    """Releases what an order holds, and closes an order that has never reserved, so that it no longer can.

    Raises FailedPrecondition RESERVATION_CLOSED when the units are sold.
    """
    # Waits for a call to reserve that is in progress, so that its units are seen below.
    if (await work.execute(_CLOSE, {"order_id": order_id})).first() or await end(
        work, order_id, ReservationStatus.RELEASED
    ):
        return
    status = (
        await work.execute(select(Reservation.status).where(Reservation.order_id == order_id))
    ).scalar_one()
    if status != ReservationStatus.RELEASED:
        raise closed(order_id, ReservationStatus(status))


def not_for_sale(product_id: UUID) -> FailedPrecondition:
    """Returns the error for a product that does not exist or is not for sale."""
    metadata = {"product_id": str(product_id)}
    return FailedPrecondition(
        "PRODUCT_NOT_FOR_SALE",
        "A product of the order is not for sale; remove it from the order.",
        metadata=metadata,
    )


def closed(order_id: UUID, status: ReservationStatus) -> FailedPrecondition:
    """Returns the error for an order whose units have already been released or sold."""
    metadata = {"order_id": str(order_id), "status": status.value}
    return FailedPrecondition(
        "RESERVATION_CLOSED", f"The order's stock has already been {status.value}.", metadata=metadata
    )
