"""The SQL of what orders hold of the stock.

Every statement takes the rows of stock in the order of product ids, so that no two of them wait for each other, and
writes the ledger in the same breath.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    DateTime,
    Integer,
    Interval,
    Uuid,
    any_,
    bindparam,
    func,
    select,
    text,
    tuple_,
)

from chassis.core import Aborted, FailedPrecondition
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

# The rows of `held` are locked, then changed under the same condition again; whoever waited for another buyer there
# sees what that one left. A line that cannot be had is missing in the answer, and the transaction is rolled back.
_RESERVE = Prepared(
    text("""
    WITH claim AS (
        INSERT INTO reservations (order_id, status, expires_at) VALUES (:order_id, 'held', now() + :hold)
        ON CONFLICT (order_id) DO UPDATE SET status = 'held', expires_at = excluded.expires_at, updated_at = now(),
            reserved_at = now()
        WHERE reservations.status = 'expired'
        RETURNING order_id
    ), held AS (
        SELECT stock.product_id, line.quantity, sku, name, currency_code, price_minor
        FROM unnest(CAST(:product_ids AS uuid[]), CAST(:quantities AS bigint[])) AS line (product_id, quantity)
        JOIN products ON products.id = line.product_id AND products.status = 'active'
        JOIN stock ON stock.product_id = line.product_id AND stock.available >= line.quantity
        WHERE EXISTS (SELECT FROM claim)
        ORDER BY stock.product_id FOR NO KEY UPDATE OF stock
    ), taken AS (
        UPDATE stock SET available = available - held.quantity, reserved = reserved + held.quantity
        FROM held WHERE stock.product_id = held.product_id AND stock.available >= held.quantity
        RETURNING held.*
    ), lines AS (
        INSERT INTO reservation_lines (order_id, product_id, quantity)
        SELECT :order_id, product_id, quantity FROM taken
    ), moved AS (
        INSERT INTO stock_movements (product_id, order_id, kind, quantity)
        SELECT product_id, :order_id, 'reserved', quantity FROM taken
    )
    SELECT taken.* FROM claim LEFT JOIN taken ON true ORDER BY product_id
    """)
)
# Closes an order that holds nothing: one that never reserved, or whose reservation has expired.
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

# Ends a reservation that holds: its units go back (released) or out (committed).
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

# Gives back what several reservations hold, unless somebody else is ending them just now. They hold nothing any more,
# so their lines go; the ledger keeps what was.
_EXPIRE = """
    WITH due AS (
        SELECT order_id FROM reservations WHERE status = 'held' AND {due}
        ORDER BY order_id LIMIT :limit FOR UPDATE SKIP LOCKED
    ), ended AS (
        UPDATE reservations SET status = 'expired', updated_at = now() FROM due
        WHERE reservations.order_id = due.order_id RETURNING due.order_id
    ), gone AS (
        DELETE FROM reservation_lines AS line USING ended WHERE line.order_id = ended.order_id
        RETURNING line.order_id, line.product_id, line.quantity
    ), held AS (
        SELECT stock.product_id, units.quantity
        FROM (SELECT product_id, sum(quantity) AS quantity FROM gone GROUP BY product_id) AS units
        JOIN stock USING (product_id)
        ORDER BY stock.product_id FOR NO KEY UPDATE OF stock
    ), given AS (
        UPDATE stock SET reserved = reserved - held.quantity, available = available + held.quantity
        FROM held WHERE stock.product_id = held.product_id
    ), moved AS (
        INSERT INTO stock_movements (product_id, order_id, kind, quantity)
        SELECT product_id, order_id, 'released', quantity FROM gone
    )
    SELECT order_id FROM ended
    """
_EXPIRE_DUE = text(_EXPIRE.format(due="expires_at <= now()"))
_EXPIRE_NAMED = text(
    _EXPIRE.format(due="order_id = ANY(CAST(:order_ids AS uuid[])) AND reserved_at <= now() - :held_for")
)
_HELD = Query(
    select(Reservation.order_id, Reservation.reserved_at)
    .where(
        Reservation.status == ReservationStatus.HELD.value,
        Reservation.reserved_at <= func.now() - bindparam("held_for", type_=Interval),
        tuple_(Reservation.reserved_at, Reservation.order_id)
        > tuple_(bindparam("after", type_=DateTime(timezone=True)), bindparam("after_order_id", type_=Uuid)),
    )
    .order_by(Reservation.reserved_at, Reservation.order_id)
    .limit(bindparam("limit", type_=Integer))
)


async def reservation(database: Database, order_id: UUID) -> tuple[ReservationStatus, Lines] | None:
    """Where an order's reservation stands and what it holds or held; None when there is none."""
    rows = await database.all(_RESERVATION, order_id=order_id)
    if not rows:
        return None
    return ReservationStatus(rows[0].status), {row.product_id: row.quantity for row in rows if row.product_id}


async def check_available(database: Database, wanted: Wanted) -> None:
    """Refuses what cannot be had now, or not at that price.

    FailedPrecondition PRODUCT_NOT_FOR_SALE, CURRENCY_MIXED, TOTAL_CHANGED or OUT_OF_STOCK.
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


async def reserve(work: UnitOfWork, wanted: Wanted) -> Sequence[Row]:
    """Reserves all lines, and returns their prices; none when the order has a reservation already.

    Aborted CONFLICT when another buyer took what was there a moment ago; FailedPrecondition as `check_available`.
    """
    values = {
        "order_id": wanted.order_id,
        "hold": wanted.hold,
        "product_ids": list(wanted.lines),
        "quantities": list(wanted.lines.values()),
    }
    taken = await work.all(_RESERVE, **values)
    if not taken:
        return ()
    if len(taken) < len(wanted.lines) or taken[0].product_id is None:
        raise Aborted("CONFLICT", "Somebody else was faster; try again.", retry_after=0.1)
    wanted.check_prices(taken)
    return taken


async def hold_longer(work: UnitOfWork, wanted: Wanted) -> bool:
    """Begins the time of a reservation anew; False when it does not hold any more."""
    values = {"order_id": wanted.order_id, "hold": wanted.hold}
    return (await work.execute(_HOLD_LONGER, values)).first() is not None


async def prices(database: Database, wanted: Wanted) -> Sequence[Row]:
    """What the lines cost now. FailedPrecondition CURRENCY_MIXED or TOTAL_CHANGED."""
    rows = await database.all(_PRICES, product_ids=list(wanted.lines))
    wanted.check_prices(rows)
    return rows


async def expire(work: UnitOfWork, order_ids: Sequence[UUID], held_for: timedelta) -> Sequence[UUID]:
    """Has those reservations expire that were made so long ago; the orders whose did."""
    values = {"order_ids": list(order_ids), "held_for": held_for, "limit": len(order_ids)}
    return (await work.execute(_EXPIRE_NAMED, values)).scalars().all()


async def expire_due(work: UnitOfWork, limit: int) -> int:
    """Has reservations expire whose time is up, so many at the most; how many did."""
    return len((await work.execute(_EXPIRE_DUE, {"limit": limit})).all())


async def held(
    database: Database, held_for: timedelta, after: datetime, after_order_id: UUID, limit: int
) -> Sequence[Row]:
    """Reservations that hold stock and were made so long ago, the oldest first, after a given one."""
    return await database.all(
        _HELD, held_for=held_for, after=after, after_order_id=after_order_id, limit=limit
    )


async def end(work: UnitOfWork, order_id: UUID, status: ReservationStatus) -> bool:
    """Commits or releases a reservation that holds; False when it does not hold, or there is none."""
    outcome = await work.one(_END, order_id=order_id, status=status.value)
    return outcome is not None and bool(outcome.ended)


async def release(work: UnitOfWork, order_id: UUID) -> None:
    """Gives back what an order holds, and closes an order that never reserved, so that it cannot any more.

    FailedPrecondition RESERVATION_CLOSED when the units are sold.
    """
    # A call to reserve that is under way is waited for here, so that its units are seen below.
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
    """The product does not exist or is not for sale."""
    metadata = {"product_id": str(product_id)}
    return FailedPrecondition("PRODUCT_NOT_FOR_SALE", "A product is not for sale.", metadata=metadata)


def closed(order_id: UUID, status: ReservationStatus) -> FailedPrecondition:
    """The order's units went back, or out, before."""
    metadata = {"order_id": str(order_id), "status": status.value}
    return FailedPrecondition(
        "RESERVATION_CLOSED", f"The order's stock was {status.value} before.", metadata=metadata
    )
