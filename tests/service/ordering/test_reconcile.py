"""Reconciliation finds each way in which ordering and catalog can contradict each other."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg
import pytest
from protomesh.ordering.v1.ordering_events_pb2 import OrderPlaced

from chassis.contract import event_type
from chassis.data import Database, migrations
from services.catalog.reconciliation_service import ReconciliationService
from services.ordering import reconcile
from services.ordering.reconcile import compare

PRODUCT = uuid.uuid4()
ORDER = event_type(OrderPlaced).aggregate_type


@dataclass
class Ledgers:
    """The two databases, empty but for a product with ten units received."""

    ordering_url: str
    catalog_url: str
    ordering: psycopg.AsyncConnection
    catalog: psycopg.AsyncConnection

    async def order(self, status: str, quantity: int = 2, *, sent: bool = True) -> uuid.UUID:
        """An order with its history and events, as the service would have written them."""
        order_id = uuid.uuid4()
        await self.ordering.execute(
            "INSERT INTO orders VALUES (%s, %s, %s, 'GBP', 5, '', '', 1, now(), now() - interval '1 hour',"
            " CASE WHEN %s THEN now() END)",
            (order_id, uuid.uuid4(), status, status == "pending_payment"),
        )
        await self.ordering.execute(
            "INSERT INTO order_items VALUES (%s, 1, %s, 'A', 'A', %s, 1)", (order_id, PRODUCT, quantity)
        )
        await self.ordering.execute(
            "INSERT INTO order_transitions VALUES (%s, 1, %s, '', now() - interval '1 hour')",
            (order_id, status),
        )
        if event := {"pending_payment": "placed"}.get(status, status):
            await self.event(order_id, event, sent=sent)
        return order_id

    async def event(self, order_id: uuid.UUID, event: str, *, sent: bool = True) -> None:
        await self.ordering.execute(
            "INSERT INTO outbox (id, type, stream, subject, aggregate_type, aggregate_id, aggregate_version,"
            " payload, trace_context, published_at)"
            " VALUES (gen_random_uuid(), '', '', %s, %s, %s, 0, '', '{}', CASE WHEN %s THEN now() END)",
            (f"ordering.order.{event}.v1.{order_id}", ORDER, str(order_id), sent),
        )

    async def reservation(self, order_id: uuid.UUID, status: str, quantity: int = 2) -> None:
        await self.catalog.execute(
            "INSERT INTO reservations (order_id, status, updated_at, expires_at)"
            " VALUES (%s, %s, now() - interval '1 hour', now())",
            (order_id, status),
        )
        await self.catalog.execute(
            "INSERT INTO reservation_lines VALUES (%s, %s, %s)", (order_id, PRODUCT, quantity)
        )

    async def stock(self, change: LiteralString) -> None:
        await self.catalog.execute(f"UPDATE stock SET {change}")

    async def findings(self) -> list[tuple[str, str]]:
        async with (
            Database(self.ordering_url, name="ordering") as ordering,
            Database(self.catalog_url, name="catalog") as catalog,
        ):
            found = [finding async for finding in compare(ordering, Asked(ReconciliationService(catalog)))]
        return [(finding.id, finding.sentence) for finding in found]


class Asked:
    """What a stub is to its callers, on a servicer in this process."""

    def __init__(self, servicer: ReconciliationService) -> None:
        self._servicer = servicer

    def __getattr__(self, rpc: str) -> Callable[[Any], Awaitable[Any]]:
        return lambda request: getattr(self._servicer, rpc)(request, None)


@pytest.fixture
async def ledgers(new_database: Callable[[], Awaitable[str]]) -> AsyncIterator[Ledgers]:
    ordering_url, catalog_url = await new_database(), await new_database()
    await asyncio.to_thread(migrations.upgrade, "ordering", ordering_url)
    await asyncio.to_thread(migrations.upgrade, "catalog", catalog_url)
    async with (
        await psycopg.AsyncConnection.connect(ordering_url, autocommit=True) as ordering,
        await psycopg.AsyncConnection.connect(catalog_url, autocommit=True) as catalog,
    ):
        await catalog.execute(
            "INSERT INTO products (id, sku, name, description, currency_code, price_minor, status, image_urls,"
            " version, created_at, updated_at)"
            " VALUES (%s, 'A', 'A', '', 'GBP', 1, 'active', '{}', 1, now(), now())",
            (PRODUCT,),
        )
        await catalog.execute(
            "INSERT INTO stock (product_id, available, reserved, sold, received) VALUES (%s, 10, 0, 0, 10)",
            (PRODUCT,),
        )
        yield Ledgers(ordering_url, catalog_url, ordering, catalog)


async def test_databases_that_agree_give_no_finding(ledgers: Ledgers):
    await ledgers.reservation(await ledgers.order("pending_payment"), "held")
    await ledgers.reservation(await ledgers.order("cancelled"), "released")
    await ledgers.reservation(await ledgers.order("expired"), "released")
    await ledgers.catalog.execute(
        "INSERT INTO reservations (order_id, status, expires_at) VALUES (gen_random_uuid(), 'expired', now())"
    )
    await ledgers.stock("available = 8, reserved = 2")
    assert await ledgers.findings() == []


async def test_an_accepted_order_without_its_stock_is_found(ledgers: Ledgers):
    order = await ledgers.order("pending_payment")
    assert await ledgers.findings() == [(str(order), "the order is pending_payment, its reservation missing")]


async def test_stock_that_a_cancelled_order_still_holds_is_found(ledgers: Ledgers):
    order = await ledgers.order("cancelled")
    await ledgers.reservation(order, "held")
    await ledgers.stock("available = 8, reserved = 2")
    assert await ledgers.findings() == [(str(order), "the order is cancelled, its reservation held")]


async def test_a_reservation_that_belongs_to_no_order_is_found(ledgers: Ledgers):
    order = uuid.uuid4()
    await ledgers.reservation(order, "held")
    await ledgers.stock("available = 8, reserved = 2")
    [(found, sentence)] = await ledgers.findings()
    assert (found, "ordering does not know" in sentence) == (str(order), True)


async def test_a_reservation_for_other_units_than_the_order_s_is_found(ledgers: Ledgers):
    order = await ledgers.order("pending_payment", quantity=3)
    await ledgers.reservation(order, "held", quantity=2)
    await ledgers.stock("available = 8, reserved = 2")
    [(found, sentence)] = await ledgers.findings()
    assert (found, f"{PRODUCT}×3" in sentence, f"{PRODUCT}×2" in sentence) == (str(order), True, True)


async def test_an_event_that_is_missing_doubled_or_unsent_is_found(ledgers: Ledgers):
    unsent = await ledgers.order("cancelled", sent=False)
    doubled = await ledgers.order("cancelled")
    missing = await ledgers.order("cancelled")
    await ledgers.event(doubled, "cancelled")
    await ledgers.ordering.execute("DELETE FROM outbox WHERE subject LIKE %s", (f"%{missing}",))
    for order in (unsent, doubled, missing):
        await ledgers.reservation(order, "released")
    event = "the event ordering.order.cancelled.v1 is"
    assert dict(await ledgers.findings()) == {
        str(unsent): f"{event} not sent",
        str(doubled): f"{event} written 2 times",
        str(missing): f"{event} written 0 times",
    }


async def test_whatever_stands_on_the_pages_behind_the_first_is_compared(
    ledgers: Ledgers, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(reconcile, "PAGE", 2)
    good = [await ledgers.order("cancelled") for _ in range(5)]
    for order in good:
        await ledgers.reservation(order, "released")
    lost = [await ledgers.order("pending_payment") for _ in range(3)]
    strange = [uuid.uuid4() for _ in range(3)]
    for order in strange:
        await ledgers.reservation(order, "committed")
    found = [finding for finding, _ in await ledgers.findings()]
    assert sorted(found) == sorted([*map(str, lost), *map(str, strange), str(PRODUCT)])


async def test_stock_that_does_not_add_up_with_its_reservations_is_found(ledgers: Ledgers):
    await ledgers.stock("available = 7, reserved = 3")
    [(found, sentence)] = await ledgers.findings()
    assert (found, "reservations hold 0" in sentence) == (str(PRODUCT), True)
