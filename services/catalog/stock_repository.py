"""The SQL of stock; the SQL of reservations is in reservation_repository.py.

Every statement that changes stock locks its rows in the order of product ids, so that no two of them deadlock, and
writes the ledger in the same statement.
"""

from typing import Any
from uuid import UUID

from sqlalchemy import bindparam, select, text
from sqlalchemy.dialects.postgresql import insert

from chassis.core import FailedPrecondition, MeshError, NotFound
from chassis.data import Query, Row, UnitOfWork
from services.catalog.model import Stock
from services.catalog.pricing import Lines

GET_STOCK = Query(select(*Stock.__table__.columns).where(Stock.product_id == bindparam("product_id")))
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


async def adjust(work: UnitOfWork, product_id: UUID, delta: int, reason: str, actor_id: str) -> Row:
    """Adds units or writes them off; returns the stock afterwards.

    Raises NotFound PRODUCT_NOT_FOUND; FailedPrecondition OUT_OF_STOCK or STOCK_TOO_LARGE.
    """
    values = {"product_id": product_id, "delta": delta, "reason": reason, "actor_id": actor_id}
    adjusted = (await work.execute(_ADJUST, values)).first()
    if adjusted is None:
        raise await _refusal(work, product_id, delta)
    return adjusted


async def receive_first(work: UnitOfWork, received: Lines, actor_id: str) -> None:
    """Writes the stock of new products, which may be 0."""
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
        "STOCK_TOO_LARGE",
        "A product can receive at most 1,000,000,000 units in all; add fewer units.",
        metadata={"product_id": str(product_id)},
    )


def out_of_stock(product_id: UUID, available: int) -> FailedPrecondition:
    """Returns the error for a product with fewer available units than were requested."""
    metadata = {"product_id": str(product_id), "available": str(available)}
    return FailedPrecondition(
        "OUT_OF_STOCK",
        "Fewer units are available than were requested; reduce the quantity.",
        metadata=metadata,
    )
