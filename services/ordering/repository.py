"""The only SQL of ordering."""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ARRAY, ColumnElement, DateTime, Integer, Uuid, any_, bindparam, func, select, text
from sqlalchemy.dialects.postgresql import aggregate_order_by
from sqlalchemy.orm import selectinload

from chassis.core import NotFound, ResourceExhausted
from chassis.data import Database, Listing, Prepared, Query, Row, UnitOfWork
from services.ordering.model import FINAL, NewOrder, Order, OrderItem, OrderTransition, Status

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
_ANYBODYS, _OWN = Query(_ONE), Query(_ONE.where(_BUYER))
_NEWEST_FIRST = (Order.created_at.desc(), Order.id.desc())
_STATUS = Order.status == bindparam("status")
OWN_ORDERS = Listing(select(*_COLUMNS).where(_BUYER), filters={"status": _STATUS}, order_by=_NEWEST_FIRST)
ALL_ORDERS = Listing(
    select(*_COLUMNS), filters={"status": _STATUS, "buyer_id": _BUYER}, order_by=_NEWEST_FIRST
)

_STANDING = Query(
    select(Order.id).where(
        Order.id == any_(bindparam("ids", type_=ARRAY(Uuid))),
        *(Order.status != status.value for status in sorted(FINAL)),
    )
)
_UNPAID = (
    select(Order.id)
    .where(_BUYER, Order.status == Status.PENDING_PAYMENT.value)
    .limit(bindparam("limit", type_=Integer))
    .subquery()
)
_BEGIN = Query(
    select(
        func.clock_timestamp(type_=DateTime(timezone=True)).label("now"),
        select(func.count()).select_from(_UNPAID).scalar_subquery().label("unpaid"),
    )
)

# One statement, because a buyer mostly waits for round trips.
_PLACE = Prepared(
    text("""
    WITH placed AS (
        INSERT INTO orders (id, buyer_id, status, currency_code, total_minor, shipping_note, reason, version,
                            created_at, updated_at, expires_at)
        VALUES (:id, :buyer_id, :status, :currency_code, :total_minor, :shipping_note, :reason, :version,
                :created_at, :updated_at, :expires_at)
        ON CONFLICT (id) DO NOTHING RETURNING id
    ), items AS (
        INSERT INTO order_items (order_id, position, product_id, sku, name, quantity, unit_price_minor)
        SELECT placed.id, item.*
        FROM placed, unnest(CAST(:positions AS integer[]), CAST(:product_ids AS uuid[]), CAST(:skus AS text[]),
                            CAST(:names AS text[]), CAST(:quantities AS integer[]), CAST(:prices AS bigint[])) AS item
    ), moved AS (
        INSERT INTO order_transitions (order_id, version, status, reason, changed_at)
        SELECT id, :version, :status, :reason, :updated_at FROM placed
    )
    SELECT id FROM placed
    """)
)
_RECORD = text("""
    INSERT INTO order_transitions (order_id, version, status, reason, changed_at)
    VALUES (:id, :version, :status, :reason, :updated_at)
    """)


async def get(database: Database, order_id: UUID, buyer_id: UUID | None) -> Row:
    """Returns an order of the buyer (None: any buyer) with its lines and history. Raises NotFound ORDER_NOT_FOUND."""
    if buyer_id is None:
        row = await database.one(_ANYBODYS, id=order_id)
    else:
        row = await database.one(_OWN, id=order_id, buyer_id=buyer_id)
    if row is None:
        raise _not_found()
    return row


async def lock(work: UnitOfWork, order_id: UUID, buyer_id: UUID | None) -> Order:
    """Returns an order of the buyer (None: any buyer), locked until the unit of work ends.

    Raises NotFound ORDER_NOT_FOUND.
    """
    statement = select(Order).where(Order.id == order_id)
    if buyer_id is not None:
        statement = statement.where(Order.buyer_id == buyer_id)
    held = statement.options(selectinload(Order.items)).with_for_update()
    order: Order | None = (await work.execute(held)).scalar_one_or_none()
    if order is None:
        raise _not_found()
    return order


async def lock_due(work: UnitOfWork, limit: int) -> Sequence[Order]:
    """Returns unpaid orders that are due, locked until the unit of work ends; skips those that are already locked."""
    due = select(Order).where(Order.status == Status.PENDING_PAYMENT.value, Order.expires_at <= func.now())
    mine = due.order_by(Order.expires_at).limit(limit).with_for_update(skip_locked=True)
    return (await work.execute(mine.options(selectinload(Order.items)))).scalars().all()


async def begin(database: Database, buyer_id: UUID, unpaid_limit: int) -> datetime:
    """Returns the time when placing an order begins, by the database's clock.

    Raises ResourceExhausted TOO_MANY_UNPAID_ORDERS when the buyer has the maximum number of unpaid orders.
    """
    [row] = await database.all(_BEGIN, buyer_id=buyer_id, limit=unpaid_limit)
    if row.unpaid >= unpaid_limit:
        raise _too_many_unpaid(unpaid_limit)
    moment: datetime = row.now
    return moment


async def standing(database: Database, order_ids: Collection[UUID]) -> set[UUID]:
    """Returns those of the orders that exist and have not ended."""
    return {row.id for row in await database.all(_STANDING, ids=list(order_ids))}


async def record(work: UnitOfWork, *orders: Order) -> None:
    """Adds the present status of orders to their history."""
    if orders:
        await work.execute(_RECORD, [_state(order) for order in orders])


async def place(work: UnitOfWork, order: NewOrder) -> bool:
    """Writes a new order and the first entry of its history; returns False when it already exists."""
    items = order.items
    values = _state(order) | {
        "buyer_id": order.buyer_id,
        "currency_code": order.currency_code,
        "total_minor": order.total_minor,
        "shipping_note": order.shipping_note,
        "created_at": order.created_at,
        "expires_at": order.expires_at,
        "positions": [item.position for item in items],
        "product_ids": [item.product_id for item in items],
        "skus": [item.sku for item in items],
        "names": [item.name for item in items],
        "quantities": [item.quantity for item in items],
        "prices": [item.unit_price_minor for item in items],
    }
    return await work.one(_PLACE, **values) is not None


def _state(order: Order | NewOrder) -> dict[str, Any]:
    """The values that each change of an order writes."""
    columns = ("id", "status", "reason", "version", "updated_at")
    return {column: getattr(order, column) for column in columns}


def _not_found() -> NotFound:
    return NotFound("ORDER_NOT_FOUND", "No such order.")


def _too_many_unpaid(limit: int) -> ResourceExhausted:
    sentence = f"You have {limit} unpaid orders, the maximum: pay or cancel one, or wait until one expires."
    violations = [("unpaid_orders", sentence)]
    return ResourceExhausted(
        "TOO_MANY_UNPAID_ORDERS", sentence, metadata={"limit": str(limit)}, violations=violations
    )
