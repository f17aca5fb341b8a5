"""Ordering's records of its orders, for reconciliation: row by row, sorted by id, a page at a time."""

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any
from uuid import UUID

from protomesh.ordering.v1.ordering_events_pb2 import OrderPlaced
from sqlalchemy import text

from chassis.contract import event_type
from chassis.data import Database, Prepared, Row

_FIRST = UUID(int=0)
_ORDER = event_type(OrderPlaced).aggregate_type

_ORDERS = Prepared(
    text("""
    SELECT id, status, updated_at,
        (SELECT string_agg(product_id || '×' || quantity, ' ' ORDER BY product_id)
         FROM order_items WHERE order_id = orders.id) AS lines
    FROM orders WHERE id > :after ORDER BY id LIMIT :page
    """)
)
# Every event of an order must be written exactly once and sent. Older events have left the outbox.
_EVENTS = Prepared(
    text(f"""
    WITH page AS (SELECT id FROM orders WHERE id > :after ORDER BY id LIMIT :page)
    SELECT page.id, expected.event, count(outbox.id) AS written,
        bool_or(outbox.id IS NOT NULL AND outbox.published_at IS NULL) AS unsent
    FROM page
    LEFT JOIN (
        order_transitions AS transition JOIN (VALUES
            ('pending_payment', 'ordering.order.placed.v1'), ('cancelled', 'ordering.order.cancelled.v1'),
            ('expired', 'ordering.order.expired.v1')
        ) AS expected (status, event) ON expected.status = transition.status
            AND transition.changed_at BETWEEN now() - interval '6 days' AND :until
    ) ON transition.order_id = page.id
    LEFT JOIN outbox ON outbox.aggregate_type = '{_ORDER}' AND outbox.aggregate_id = page.id::text
        AND outbox.subject = expected.event || '.' || page.id
    GROUP BY page.id, expected.event ORDER BY page.id
    """)  # noqa: S608 (all parts are ours)
)


async def orders(database: Database, page: int) -> AsyncIterator[Row]:
    """Yields every order: id, status, updated_at, and its lines as `product×units product×units`."""
    async for row in _pages(database, _ORDERS, page, {}):
        yield row


async def events(database: Database, page: int, until: datetime) -> AsyncIterator[Row]:
    """Yields events that were not written exactly once, or not sent: id of the order, event, written, unsent."""
    async for row in _pages(database, _EVENTS, page, {"until": until}):
        if row.event and (row.written != 1 or row.unsent):
            yield row


async def _pages(
    database: Database, statement: Prepared, page: int, values: dict[str, Any]
) -> AsyncIterator[Row]:
    after: UUID | None = _FIRST
    while after is not None:
        async with database.connection() as connection:
            rows = (await statement.execute(connection, {"after": after, "page": page, **values})).rows
        for row in rows:
            yield row
        after = rows[-1].id if rows else None
