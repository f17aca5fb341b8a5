"""The only SQL of ordering."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Interval, bindparam, delete, func, insert, select, update
from sqlalchemy.dialects.postgresql import aggregate_order_by

from chassis.database import Database
from chassis.errors import NotFound
from chassis.pagination import Listing
from chassis.reads import Query, Row
from chassis.unit_of_work import UnitOfWork
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

_LINES_OF = Query(
    select(OrderItem.product_id, OrderItem.quantity)
    .where(OrderItem.order_id == bindparam("id"))
    .order_by(OrderItem.position)
)
_BUYER = Order.buyer_id == bindparam("buyer_id")
_ONE = select(*_COLUMNS, _HISTORY.label("history")).where(Order.id == bindparam("id"))
_OWN = Query(_ONE.where(_BUYER))
_NEWEST_FIRST = (Order.created_at.desc(), Order.id.desc())
_STATUS = Order.status == bindparam("status")
OWN_ORDERS = Listing(select(*_COLUMNS).where(_BUYER), filters={"status": _STATUS}, order_by=_NEWEST_FIRST)
ALL_ORDERS = Listing(
    select(*_COLUMNS), filters={"status": _STATUS, "buyer_id": _BUYER}, order_by=_NEWEST_FIRST
)

_FIRST_TOKEN = 1
_SAGAS = Saga.metadata.tables[Saga.__tablename__]
_SAGA = _SAGAS.c.order_id == bindparam("id")
_HELD = _SAGA & (_SAGAS.c.fencing_token == bindparam("token"))
_LEASED = {"fencing_token": _SAGAS.c.fencing_token + 1, "leased_until": func.now() + LEASE}
_BEGIN = insert(_SAGAS).values(fencing_token=_FIRST_TOKEN, leased_until=func.now() + LEASE)
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
_END = delete(_SAGAS).where(_HELD).returning(_SAGAS.c.order_id)
_ABORT = delete(_SAGAS).where(_SAGA)


async def own(database: Database, order_id: UUID, buyer_id: UUID) -> Row:
    """An order of the buyer with its lines and history. Raises NotFound ORDER_NOT_FOUND."""
    row = await database.one(_OWN, id=order_id, buyer_id=buyer_id)
    if row is None:
        raise _not_found()
    return row


async def written(work: UnitOfWork, order_id: UUID) -> Row:
    """An order with its lines and history, as the unit of work leaves it."""
    return (await work.execute(_ONE, {"id": order_id})).one()


async def lines_of(database: Database, order_id: UUID) -> list[Row]:
    """What an order reserves: rows of product_id and quantity."""
    return await database.all(_LINES_OF, id=order_id)


async def lock_own(work: UnitOfWork, order_id: UUID, buyer_id: UUID) -> Order:
    """The buyer's order, held until the unit of work ends. Raises NotFound ORDER_NOT_FOUND."""
    statement = select(Order).where(Order.id == order_id, Order.buyer_id == buyer_id).with_for_update()
    order: Order | None = (await work.execute(statement)).scalar_one_or_none()
    if order is None:
        raise _not_found()
    return order


async def lock(work: UnitOfWork, order_id: UUID) -> Order:
    """An order that is known to exist, held until the unit of work ends."""
    order = await work.get(Order, order_id, for_update=True)
    assert order is not None
    return order


def _not_found() -> NotFound:
    return NotFound("ORDER_NOT_FOUND", "No such order.")


async def begin_saga(work: UnitOfWork, order_id: UUID) -> int:
    """Writes the saga of a new order, leased to the caller; its fencing token."""
    await work.execute(_BEGIN, {"order_id": order_id})
    return _FIRST_TOKEN


async def take_over_saga(work: UnitOfWork, order_id: UUID) -> int | None:
    """Leases an order's saga, whoever holds it; its fencing token, or None when the order is decided."""
    token: int | None = (await work.execute(_TAKE_OVER, {"id": order_id})).scalar_one_or_none()
    return token


async def claim_abandoned_sagas(work: UnitOfWork, limit: int) -> Sequence[tuple[UUID, int]]:
    """Leases sagas whose holder let the lease run out: (order id, fencing token) pairs."""
    return [
        (row.order_id, row.fencing_token) for row in await work.execute(_CLAIM_ABANDONED, {"limit": limit})
    ]


async def defer_saga(work: UnitOfWork, order_id: UUID, fencing_token: int, seconds: float) -> None:
    """Gives a lease back early: the next attempt comes after `seconds`, not after the whole lease."""
    values = {"id": order_id, "token": fencing_token, "pause": timedelta(seconds=seconds)}
    await work.execute(_DEFER, values)


async def end_saga(work: UnitOfWork, order_id: UUID, fencing_token: int) -> bool:
    """Ends a saga for its holder; False when somebody else holds or has ended it."""
    ended = await work.execute(_END, {"id": order_id, "token": fencing_token})
    return ended.first() is not None


async def abort_saga(work: UnitOfWork, order_id: UUID) -> None:
    """Ends a saga, whoever holds it."""
    await work.execute(_ABORT, {"id": order_id})
