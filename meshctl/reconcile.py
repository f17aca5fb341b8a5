"""`meshctl reconcile` compares the databases of ordering and catalog: what they say of an order must agree.

Both are read order by order, side by side, so that neither has to fit into memory. What changed within the
grace period is left out, since the two are not read in one instant.
"""

import contextlib
import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Any, LiteralString

import psycopg
import typer
from psycopg.rows import namedtuple_row

from meshctl.core.failure import OperatorError
from meshctl.core.folder import DEFAULT_FOLDER
from meshctl.mesh.running import RunningMesh

# What a crash leaves of an order is gone within 30 s, and events are sent within seconds.
GRACE_SECONDS = 60.0

# What an order in this status holds at catalog; None is no reservation at all.
_HOLDS: dict[str, frozenset[str | None]] = {
    "pending_payment": frozenset({"held"}),
    "cancelled": frozenset({"released"}),
    "expired": frozenset({"released"}),
}

_ORDERS: LiteralString = """
    SELECT id, 'order' AS kind, status, updated_at,
        (SELECT string_agg(product_id || '×' || quantity, ' ' ORDER BY product_id)
         FROM order_items WHERE order_id = orders.id) AS lines
    FROM orders ORDER BY id
    """
_RESERVATIONS: LiteralString = """
    SELECT order_id AS id, 'reservation' AS kind, status, updated_at,
        (SELECT string_agg(product_id || '×' || quantity, ' ' ORDER BY product_id)
         FROM reservation_lines WHERE order_id = reservations.order_id) AS lines
    FROM reservations ORDER BY order_id
    """
# Every event of an order exactly once, and none that stays behind.
_EVENTS: LiteralString = """
    SELECT orders.id, expected.event, count(outbox.id) AS written,
        bool_or(outbox.id IS NOT NULL AND outbox.published_at IS NULL) AS unsent
    FROM order_transitions AS transition
    JOIN orders ON orders.id = transition.order_id
    JOIN (VALUES
        ('pending_payment', 'ordering.order.placed.v1'), ('cancelled', 'ordering.order.cancelled.v1'),
        ('expired', 'ordering.order.expired.v1')
    ) AS expected (status, event) ON expected.status = transition.status
    LEFT JOIN outbox ON outbox.subject = expected.event || '.' || orders.id
    WHERE transition.changed_at BETWEEN now() - interval '6 days' AND %(until)s
    GROUP BY orders.id, expected.event
    HAVING count(outbox.id) <> 1 OR bool_or(outbox.published_at IS NULL)
    """
_STOCK: LiteralString = """
    SELECT product_id AS id, available, stock.reserved, stock.sold, received,
        coalesce(held.reserved, 0) AS held_reserved, coalesce(held.sold, 0) AS held_sold
    FROM stock LEFT JOIN (
        SELECT product_id, sum(quantity) FILTER (WHERE status = 'held') AS reserved,
            sum(quantity) FILTER (WHERE status = 'committed') AS sold
        FROM reservation_lines JOIN reservations USING (order_id) GROUP BY product_id
    ) AS held USING (product_id)
    WHERE available < 0 OR available + stock.reserved + stock.sold <> received
        OR stock.reserved <> coalesce(held.reserved, 0) OR stock.sold <> coalesce(held.sold, 0)
    """


@dataclass(frozen=True, slots=True)
class Finding:
    """Something on which the databases disagree: a product's or an order's id, and a sentence."""

    id: str
    sentence: str


def reconcile(
    data: Annotated[
        Path, typer.Option(envvar="PROTOMESH_DATA", help="Data folder of the mesh.")
    ] = DEFAULT_FOLDER,
    grace: Annotated[
        float, typer.Option(help="Seconds; what changed within them is left out.")
    ] = GRACE_SECONDS,
) -> None:
    """Compares what ordering and catalog say about each order. Exit code 1 when they disagree."""
    urls = RunningMesh.on(data).database_urls
    try:
        findings = list(compare(urls["ordering"], urls["catalog"], grace))
    except psycopg.OperationalError as failure:
        raise OperatorError(f"PostgreSQL cannot be read: {str(failure).splitlines()[0]}") from None
    for finding in findings:
        print(f"{finding.id}: {finding.sentence}")
    print(f"{len(findings)} findings" if findings else "ordering and catalog agree")
    if findings:
        raise typer.Exit(1)


def compare(ordering_url: str, catalog_url: str, grace_seconds: float = GRACE_SECONDS) -> Iterator[Finding]:
    """All that does not agree. Raises psycopg.Error when a database cannot be read."""
    until = datetime.now(UTC) - timedelta(seconds=grace_seconds)
    with _reading(ordering_url) as ordering, _reading(catalog_url) as catalog:
        orders = _rows(ordering, "orders", _ORDERS)
        reservations = _rows(catalog, "reservations", _RESERVATIONS)
        for order_id, order, reservation in _side_by_side(orders, reservations):
            if max(row.updated_at for row in (order, reservation) if row) < until:
                yield from (Finding(order_id, text) for text in _contradictions(order, reservation))
        for row in ordering.execute(_EVENTS, {"until": until}):
            state = "not sent" if row.unsent and row.written == 1 else f"written {row.written} times"
            yield Finding(str(row.id), f"the event {row.event} is {state}")
        for row in catalog.execute(_STOCK):
            yield Finding(
                str(row.id),
                f"stock says {row.available} available + {row.reserved} reserved + {row.sold} sold of "
                f"{row.received} received; reservations hold {row.held_reserved} and sold {row.held_sold}",
            )


def _contradictions(order: Any, reservation: Any) -> Iterator[str]:
    held = reservation.status if reservation else None
    if order is None:
        if held not in ("released", "expired"):
            yield f"catalog has a reservation ({held}) for an order that ordering does not know"
    elif order.status in _HOLDS and held not in _HOLDS[order.status]:
        yield f"the order is {order.status}, its reservation {held or 'missing'}"
    elif held == "held" and reservation.lines != order.lines:
        yield f"the order is for {order.lines}, its reservation for {reservation.lines}"


def _side_by_side(orders: Iterator[Any], reservations: Iterator[Any]) -> Iterator[tuple[str, Any, Any]]:
    """(order id, order or None, reservation or None) from two sorted streams."""
    for order_id, group in groupby(_merge(orders, reservations), key=attrgetter("id")):
        found = {row.kind: row for row in group}
        yield str(order_id), found.get("order"), found.get("reservation")


def _merge(*streams: Iterator[Any]) -> Iterator[Any]:
    return heapq.merge(*streams, key=attrgetter("id"))


def _rows(connection: psycopg.Connection[Any], name: str, statement: LiteralString) -> Iterator[Any]:
    """Rows as the server finds them, a thousand at a time."""
    with connection.cursor(name) as cursor:
        cursor.itersize = 1000
        yield from cursor.execute(statement)


@contextlib.contextmanager
def _reading(url: str) -> Iterator[psycopg.Connection[Any]]:
    """A connection that sees one instant and changes nothing."""
    with psycopg.connect(url, row_factory=namedtuple_row, application_name="meshctl-reconcile") as connection:
        connection.read_only = True
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        yield connection
