"""The only SQL of ordering."""

from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Interval, bindparam, delete, func, select, text, update
from sqlalchemy.dialects.postgresql import JSONB, aggregate_order_by
from sqlalchemy.orm import selectinload

from chassis.core import NotFound
from chassis.data import Database, Listing, Query, Row, UnitOfWork
from services.ordering.model import Order, OrderItem, OrderTransition, Saga

# Longer than what follows an order's first transaction may take, so that recovery never races a call that is alive.
LEASE = timedelta(seconds=15)

_LINE = func.json_build_object(
    "product_id", OrderItem.product_id, "sku", OrderItem.sku, "name", OrderItem.name,
    "quantity", OrderItem.quantity, "unit_price_minor", OrderItem.unit_price_minor,
)  # fmt: skip
_LINES = (
    select(func.json_agg(aggregate_order_by(_LINE, OrderItem.position)))
    .where(OrderItem.order_id == Order.id)
    .scalar_subquery()
)
_TRANSITION = func.json_build_object(
    "version", OrderTransition.version, "status", OrderTransition.status,
    "reason", OrderTransition.reason, "changed_at", OrderTransition.changed_at,
)  # fmt: skip
_HISTORY = (
    select(func.json_agg(aggregate_order_by(_TRANSITION, OrderTransition.version)))
    .where(OrderTransition.order_id == Order.id)
    .scalar_subquery()
)
_COLUMNS: Sequence[ColumnElement[Any]] = (*Order.__table__.columns, _LINES.label("lines"))

_BUYER = Order.buyer_id == bindparam("buyer_id")
_ONE = select(*_COLUMNS, _HISTORY.label("history")).where(Order.id == bindparam("id"))
_OWN = Query(_ONE.where(_BUYER))
_NEWEST_FIRST = (Order.created_at.desc(), Order.id.desc())
_STATUS = Order.status == bindparam("status")
OWN_ORDERS = Listing(select(*_COLUMNS).where(_BUYER), filters={"status": _STATUS}, order_by=_NEWEST_FIRST)
ALL_ORDERS = Listing(
    select(*_COLUMNS), filters={"status": _STATUS, "buyer_id": _BUYER}, order_by=_NEWEST_FIRST
)

# An order is placed and decided in one statement each: what a buyer waits for is mostly round trips.
_PLACE = text("""
    WITH placed AS (
        INSERT INTO orders (id, buyer_id, status, currency_code, total_minor, shipping_note, reason, version,
                            created_at, updated_at)
        VALUES (:id, :buyer_id, :status, :currency_code, :total_minor, :shipping_note, :reason, :version,
                :created_at, :updated_at)
    ), items AS (
        INSERT INTO order_items (order_id, position, product_id, sku, name, quantity, unit_price_minor)
        SELECT :id, item.*
        FROM unnest(CAST(:positions AS integer[]), CAST(:product_ids AS uuid[]), CAST(:skus AS text[]),
                    CAST(:names AS text[]), CAST(:quantities AS integer[]), CAST(:prices AS bigint[])) AS item
    ), moved AS (
        INSERT INTO order_transitions (order_id, version, status, reason, changed_at)
        VALUES (:id, :version, :status, :reason, :updated_at)
    )
    INSERT INTO sagas (order_id, fencing_token, leased_until) VALUES (:id, :token, now() + :lease)
    """)
_RECORD = text("""
    INSERT INTO order_transitions (order_id, version, status, reason, changed_at)
    VALUES (:id, :version, :status, :reason, :updated_at)
    """)
# First the order is locked, then its saga, as a cancellation does: so the two cannot deadlock.
_DECIDE = text("""
    WITH held AS (
        SELECT id FROM orders WHERE id = :id AND version = :version - 1 FOR NO KEY UPDATE
    ), ended AS (
        DELETE FROM sagas USING held WHERE order_id = held.id AND fencing_token = :token RETURNING order_id
    ), decided AS (
        UPDATE orders SET status = :status, reason = :reason, rejection = :rejection, version = :version,
            updated_at = :updated_at
        FROM ended WHERE orders.id = ended.order_id RETURNING orders.id
    ), moved AS (
        INSERT INTO order_transitions (order_id, version, status, reason, changed_at)
        SELECT id, :version, :status, :reason, :updated_at FROM decided
    )
    SELECT id FROM decided
    """).bindparams(bindparam("rejection", type_=JSONB(none_as_null=True)))

_FIRST_TOKEN = 1
_SAGAS = Saga.metadata.tables[Saga.__tablename__]
_SAGA = _SAGAS.c.order_id == bindparam("id")
_HELD = _SAGA & (_SAGAS.c.fencing_token == bindparam("token"))
_LEASED = {"fencing_token": _SAGAS.c.fencing_token + 1, "leased_until": func.now() + LEASE}
_TAKE_OVER = update(_SAGAS).where(_SAGA).values(_LEASED).returning(_SAGAS.c.fencing_token)
_CLAIM_ABANDONED = (
    update(_SAGAS)
    .where(
        _SAGAS.c.order_id.in_(
            select(_SAGAS.c.order_id)
            .where(_SAGAS.c.leased_until < func.now())
            .order_by(_SAGAS.c.leased_until)
            .limit(bindparam("limit"))
            .with_for_update(skip_locked=True)
        )
    )
    .values(_LEASED)
    .returning(_SAGAS.c.order_id, _SAGAS.c.fencing_token)
)
_DEFER = update(_SAGAS).where(_HELD).values(leased_until=func.now() + bindparam("pause", type_=Interval))
_ABORT = delete(_SAGAS).where(_SAGA)


async def own(database: Database, order_id: UUID, buyer_id: UUID) -> Row:
    """An order of the buyer with its lines and history. Raises NotFound ORDER_NOT_FOUND."""
    row = await database.one(_OWN, id=order_id, buyer_id=buyer_id)
    if row is None:
        raise _not_found()
    return row


async def lock_own(work: UnitOfWork, order_id: UUID, buyer_id: UUID) -> Order:
    """The buyer's order, held until the unit of work ends. Raises NotFound ORDER_NOT_FOUND."""
    statement = select(Order).where(Order.id == order_id, Order.buyer_id == buyer_id).with_for_update()
    order: Order | None = (await work.execute(statement)).scalar_one_or_none()
    if order is None:
        raise _not_found()
    return order


async def with_items(work: UnitOfWork, order_ids: Collection[UUID]) -> Sequence[Order]:
    """Orders with their items."""
    statement = select(Order).where(Order.id.in_(order_ids)).options(selectinload(Order.items))
    return (await work.execute(statement)).scalars().all()


async def record(work: UnitOfWork, order: Order) -> None:
    """Writes into an order's history how it stands now."""
    await work.execute(_RECORD, _state(order))


async def place(work: UnitOfWork, order: Order) -> int:
    """Writes a new order, its history's first entry, and its saga, leased to the caller; its fencing token."""
    items = order.items
    values = _state(order) | {
        "buyer_id": order.buyer_id,
        "currency_code": order.currency_code,
        "total_minor": order.total_minor,
        "shipping_note": order.shipping_note,
        "created_at": order.created_at,
        "positions": [item.position for item in items],
        "product_ids": [item.product_id for item in items],
        "skus": [item.sku for item in items],
        "names": [item.name for item in items],
        "quantities": [item.quantity for item in items],
        "prices": [item.unit_price_minor for item in items],
        "token": _FIRST_TOKEN,
        "lease": LEASE,
    }
    await work.execute(_PLACE, values)
    return _FIRST_TOKEN


async def decide(work: UnitOfWork, order: Order, fencing_token: int) -> bool:
    """Writes the verdict that an order took and ends its saga; False when somebody else holds or has ended that."""
    values = _state(order) | {"rejection": order.rejection, "token": fencing_token}
    return (await work.execute(_DECIDE, values)).first() is not None


def _state(order: Order) -> dict[str, Any]:
    """What each change of an order changes."""
    columns = ("id", "status", "reason", "version", "updated_at")
    return {column: getattr(order, column) for column in columns}


def _not_found() -> NotFound:
    return NotFound("ORDER_NOT_FOUND", "No such order.")


async def take_over_saga(work: UnitOfWork, order_id: UUID) -> int | None:
    """Leases an order's saga, whoever holds it; its fencing token, or None when the order is decided."""
    token: int | None = (await work.execute(_TAKE_OVER, {"id": order_id})).scalar_one_or_none()
    return token


async def claim_abandoned_sagas(work: UnitOfWork, limit: int) -> Mapping[UUID, int]:
    """Leases sagas whose holder let the lease run out: their fencing tokens by order id."""
    claimed = await work.execute(_CLAIM_ABANDONED, {"limit": limit})
    return {row.order_id: row.fencing_token for row in claimed}


async def defer_saga(work: UnitOfWork, order_id: UUID, fencing_token: int, seconds: float) -> None:
    """Gives a lease back early: the next attempt comes after `seconds`, not after the whole lease."""
    values = {"id": order_id, "token": fencing_token, "pause": timedelta(seconds=seconds)}
    await work.execute(_DEFER, values)


async def abort_saga(work: UnitOfWork, order_id: UUID) -> None:
    """Ends a saga, whoever holds it."""
    await work.execute(_ABORT, {"id": order_id})
