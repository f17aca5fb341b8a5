"""The SQL that expires reservations."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import DateTime, Integer, Interval, Uuid, bindparam, func, select, text, tuple_

from chassis.data import Database, Query, Row, UnitOfWork
from services.catalog.model import Reservation, ReservationStatus

# Releases the stock of several reservations, except those that another transaction is ending at the moment. Their lines
# are deleted because they hold nothing any more; the ledger keeps the history.
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


async def expire(work: UnitOfWork, order_ids: Sequence[UUID], held_for: timedelta) -> Sequence[UUID]:
    """Expires those of the reservations that are at least this old; returns the orders whose reservation expired."""
    values = {"order_ids": list(order_ids), "held_for": held_for, "limit": len(order_ids)}
    return (await work.execute(_EXPIRE_NAMED, values)).scalars().all()


async def expire_due(work: UnitOfWork, limit: int) -> int:
    """Expires up to `limit` reservations whose time has ended; returns how many."""
    return len((await work.execute(_EXPIRE_DUE, {"limit": limit})).all())


async def held(
    database: Database, held_for: timedelta, after: datetime, after_order_id: UUID, limit: int
) -> Sequence[Row]:
    """Returns reservations that hold stock and are at least this old, oldest first, after a given one."""
    return await database.all(
        _HELD, held_for=held_for, after=after, after_order_id=after_order_id, limit=limit
    )
