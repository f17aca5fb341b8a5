"""Stock: nothing is promised twice, whatever arrives in whatever order."""

import asyncio
import itertools
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import grpc
import psycopg
import pytest
from google.protobuf.duration_pb2 import Duration
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from protomesh.catalog.v1.inventory_service_pb2 import (
    AdjustStockRequest,
    CommitStockRequest,
    ExpireReservationsRequest,
    FindReservationsRequest,
    ReleaseStockRequest,
    Reservation,
    Stock,
)
from protomesh.catalog.v1.inventory_service_pb2_grpc import InventoryServiceStub
from protomesh.ordering.v1.ordering_events_pb2 import OrderCancelled, OrderExpired
from protomesh.type.v1.money_pb2 import Money

from chassis.core import from_rpc
from chassis.data import Database
from chassis.events import Envelope
from services.catalog import subscribers
from tests.patience import UNFINISHED, eventually, patiently
from tests.service.catalog.conftest import Catalog, new_id, refusal

ENVELOPE = Envelope(uuid4(), OrderCancelled.DESCRIPTOR.full_name, "", 1, datetime.now(UTC), "")


async def _commit(catalog: Catalog, order_id: str) -> Reservation:
    return await catalog.inventory.CommitStock(CommitStockRequest(order_id=order_id))


async def _release(catalog: Catalog, order_id: str) -> Reservation:
    request = ReleaseStockRequest(order_id=order_id)
    return await patiently(lambda: catalog.inventory.ReleaseStock(request), UNFINISHED)


async def _expire(catalog: Catalog, *order_ids: str, seconds: int = 0) -> list[str]:
    request = ExpireReservationsRequest(order_ids=order_ids, held_for=Duration(seconds=seconds))
    return list((await catalog.inventory.ExpireReservations(request)).order_ids)


async def _found(catalog: Catalog, seconds: int) -> set[str]:
    """Reservations that were made so long ago."""
    request = FindReservationsRequest(held_for=Duration(seconds=seconds), limit=1000)
    answer = await catalog.inventory.FindReservations(request)
    return {reservation.order_id for reservation in answer.reservations}


async def _age(catalog: Catalog, order_id: str, seconds: int) -> None:
    """Makes a reservation older than it is."""
    url = catalog.mesh.database_url("catalog")
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as database:
        older = "UPDATE reservations SET reserved_at = reserved_at - make_interval(secs => %s) WHERE order_id = %s"
        await database.execute(older, [seconds, order_id])


async def _adjust(catalog: Catalog, product_id: str, delta: int) -> Stock:
    request = AdjustStockRequest(product_id=product_id, delta=delta, reason="counted")
    return await catalog.inventory.AdjustStock(request, metadata=catalog.keyed())


async def _outcome(call: Any) -> str:
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return from_rpc(error).reason or error.code().name
    return "OK"


def _numbers(stock: Stock) -> tuple[int, int, int, int]:
    return stock.available, stock.reserved, stock.sold, stock.received


async def _ledger(catalog: Catalog, product_id: str) -> tuple[int, int, int, int]:
    """The stock of a product as its movements tell it."""
    async with await psycopg.AsyncConnection.connect(catalog.mesh.database_url("catalog")) as database:
        rows = await database.execute(
            "SELECT kind, sum(quantity)::bigint FROM stock_movements WHERE product_id = %s GROUP BY kind",
            [product_id],
        )
        moved: Counter[str] = Counter(dict(await rows.fetchall()))
    reserved = moved["reserved"] - moved["released"] - moved["committed"]
    return moved["received"] - reserved - moved["committed"], reserved, moved["committed"], moved["received"]


async def test_of_500_buyers_at_once_exactly_100_get_the_100_units(catalog: Catalog):
    product = await catalog.new_product(units=100)
    buying = (_outcome(catalog.reserve(new_id(), (product.id, 1))) for _ in range(500))
    outcomes = Counter(await asyncio.gather(*buying))
    assert outcomes == {"OK": 100, "OUT_OF_STOCK": 400}
    assert _numbers(await catalog.stock(product.id)) == (0, 100, 0, 100) == await _ledger(catalog, product.id)


async def test_orders_that_want_the_same_products_in_different_orders_do_not_block_each_other(
    catalog: Catalog,
):
    products = [(await catalog.new_product(units=30)).id for _ in range(3)]
    orders = [lines for lines in itertools.permutations(products) for _ in range(10)]
    outcomes = Counter(
        await asyncio.gather(
            *(_outcome(catalog.reserve(new_id(), *((product, 1) for product in lines))) for lines in orders)
        )
    )
    assert outcomes == {"OK": 30, "OUT_OF_STOCK": 30}
    for product in products:
        assert _numbers(await catalog.stock(product)) == (0, 30, 0, 30)


async def test_an_order_gets_all_its_lines_or_none(catalog: Catalog):
    plenty, scarce = await catalog.new_product(units=10), await catalog.new_product(units=1)
    order_id = new_id()
    refused = await refusal(catalog.reserve(order_id, (plenty.id, 5), (scarce.id, 2)))
    assert refused.reason == "OUT_OF_STOCK"
    assert refused.metadata == {"product_id": scarce.id, "available": "1"}
    assert _numbers(await catalog.stock(plenty.id)) == (10, 0, 0, 10)
    await catalog.reserve(order_id, (plenty.id, 5), (scarce.id, 1))


async def test_an_order_that_asks_many_times_at_once_gets_its_units_once(catalog: Catalog):
    product = await catalog.new_product(units=3)
    order_id = new_id()
    answers = await asyncio.gather(*(catalog.reserve(order_id, (product.id, 3)) for _ in range(20)))
    assert all(answer == answers[0] for answer in answers)
    assert _numbers(await catalog.stock(product.id)) == (0, 3, 0, 3)
    other = await refusal(catalog.reserve(order_id, (product.id, 1)))
    assert other.reason == "IDEMPOTENCY_KEY_REUSED"


async def test_units_that_were_released_come_back_once(catalog: Catalog):
    product = await catalog.new_product(units=3)
    order_id = new_id()
    await catalog.reserve(order_id, (product.id, 2))
    answers = await asyncio.gather(*(_release(catalog, order_id) for _ in range(5)))
    assert {answer.status for answer in answers} == {Reservation.released}
    assert _numbers(await catalog.stock(product.id)) == (3, 0, 0, 3)
    assert (await refusal(_commit(catalog, order_id))).reason == "RESERVATION_CLOSED"
    assert (await refusal(catalog.reserve(order_id, (product.id, 2)))).reason == "RESERVATION_CLOSED"


async def test_units_that_were_sold_stay_sold(catalog: Catalog):
    product = await catalog.new_product(units=3)
    order_id = new_id()
    await catalog.reserve(order_id, (product.id, 2))
    for _ in range(2):
        assert (await _commit(catalog, order_id)).status == Reservation.committed
    assert (await refusal(_release(catalog, order_id))).reason == "RESERVATION_CLOSED"
    assert (await catalog.reserve(order_id, (product.id, 2))).status == Reservation.committed
    assert _numbers(await catalog.stock(product.id)) == (1, 0, 2, 3)


async def test_an_order_that_was_released_before_it_reserved_gets_nothing(catalog: Catalog):
    product = await catalog.new_product(units=3)
    order_id = new_id()
    assert (await refusal(_commit(catalog, order_id))).reason == "RESERVATION_NOT_FOUND"
    released = await _release(catalog, order_id)
    assert (released.status, list(released.lines)) == (Reservation.released, [])
    assert (await refusal(catalog.reserve(order_id, (product.id, 1)))).reason == "RESERVATION_CLOSED"
    assert _numbers(await catalog.stock(product.id)) == (3, 0, 0, 3)


async def test_a_release_that_races_the_reservation_always_wins(catalog: Catalog):
    product = await catalog.new_product(units=5)
    for order_id in [new_id() for _ in range(40)]:
        racing = catalog.reserve(order_id, (product.id, 1)), _release(catalog, order_id)
        reserved, released = await asyncio.gather(*map(_outcome, racing))
        assert released == "OK"
        assert reserved in ("OK", "RESERVATION_CLOSED")
    assert _numbers(await catalog.stock(product.id)) == (5, 0, 0, 5) == await _ledger(catalog, product.id)


@pytest.mark.parametrize("event", [OrderCancelled, OrderExpired])
async def test_an_order_that_is_over_gives_its_stock_back_however_often_it_is_told(
    catalog: Catalog, event: type[OrderCancelled | OrderExpired]
):
    product = await catalog.new_product(units=3)
    held, late = new_id(), new_id()
    await catalog.reserve(held, (product.id, 2))
    async with Database(catalog.mesh.database_url("catalog")) as database:
        for order_id in (held, held, late):
            async with database.unit_of_work() as work:
                await subscribers.release_stock(event(order_id=order_id), ENVELOPE, work)
    assert _numbers(await catalog.stock(product.id)) == (3, 0, 0, 3)
    assert (await refusal(catalog.reserve(late, (product.id, 1)))).reason == "RESERVATION_CLOSED"


async def test_a_reservation_returns_what_its_products_cost_now(catalog: Catalog):
    mug, plate = await catalog.new_product(units=3), await catalog.new_product(units=3, price_minor=1999)
    reserved = await catalog.reserve(order_id := new_id(), (plate.id, 1), (mug.id, 2))
    cost = {price.product_id: (price.sku, price.unit_price.amount_minor) for price in reserved.prices}
    assert cost == {mug.id: (mug.sku, 250), plate.id: (plate.sku, 1999)}
    assert await catalog.reserve(order_id, (mug.id, 2), (plate.id, 1)) == reserved


async def test_what_comes_to_another_total_than_was_expected_is_refused_and_holds_nothing(catalog: Catalog):
    product, order_id = await catalog.new_product(units=3), new_id()
    expected = Money(currency_code="GBP", amount_minor=499)
    refused = await refusal(catalog.reserve(order_id, (product.id, 2), expected_total=expected))
    assert refused.reason == "TOTAL_CHANGED"
    assert refused.metadata == {"currency_code": "GBP", "amount_minor": "500"}
    assert _numbers(await catalog.stock(product.id)) == (3, 0, 0, 3)
    expected.amount_minor = 500
    await catalog.reserve(order_id, (product.id, 2), expected_total=expected)


async def test_products_of_several_currencies_are_not_reserved_together(catalog: Catalog):
    pounds, euros = await catalog.new_product(units=1), await catalog.new_product(units=1, currency="EUR")
    refused = await refusal(catalog.reserve(new_id(), (pounds.id, 1), (euros.id, 1)))
    assert (refused.reason, refused.metadata) == ("CURRENCY_MIXED", {"currencies": "EUR,GBP"})
    assert _numbers(await catalog.stock(pounds.id)) == (1, 0, 0, 1)


async def test_a_reservation_whose_time_is_up_gives_its_units_back_by_itself(catalog: Catalog):
    product, order_id = await catalog.new_product(units=3), new_id()
    await catalog.reserve(order_id, (product.id, 2), seconds=1)

    async def came_back() -> bool:
        return _numbers(await catalog.stock(product.id)) == (3, 0, 0, 3)

    await eventually(came_back)
    assert await _ledger(catalog, product.id) == (3, 0, 0, 3)
    assert (await refusal(_commit(catalog, order_id))).reason == "RESERVATION_CLOSED"
    assert (await catalog.reserve(order_id, (product.id, 1))).status == Reservation.held
    assert _numbers(await catalog.stock(product.id)) == (2, 1, 0, 3) == await _ledger(catalog, product.id)


async def test_a_reservation_that_expired_and_is_released_cannot_be_made_anew(catalog: Catalog):
    product, order_id = await catalog.new_product(units=3), new_id()
    await catalog.reserve(order_id, (product.id, 2))
    assert await _expire(catalog, order_id) == [order_id]
    assert (await _release(catalog, order_id)).status == Reservation.released
    assert (await refusal(catalog.reserve(order_id, (product.id, 1)))).reason == "RESERVATION_CLOSED"
    assert _numbers(await catalog.stock(product.id)) == (3, 0, 0, 3)


async def test_a_reservation_that_is_asked_for_again_is_young_again(catalog: Catalog):
    product, order_id = await catalog.new_product(units=3), new_id()
    await catalog.reserve(order_id, (product.id, 2))
    await _age(catalog, order_id, seconds=30)
    assert order_id in await _found(catalog, seconds=20)
    await catalog.reserve(order_id, (product.id, 2))
    assert order_id not in await _found(catalog, seconds=20)
    assert await _expire(catalog, order_id, seconds=20) == []
    assert _numbers(await catalog.stock(product.id)) == (1, 2, 0, 3)


async def test_reservations_are_found_page_by_page_the_oldest_first(catalog: Catalog):
    product, orders = await catalog.new_product(units=9), [new_id() for _ in range(3)]
    for age, order_id in zip((5000, 4000, 4500), orders, strict=True):
        await catalog.reserve(order_id, (product.id, 1), seconds=9000)
        await _age(catalog, order_id, seconds=age)
    request, found = FindReservationsRequest(limit=1, held_for=Duration(seconds=3900)), []
    while page := (await catalog.inventory.FindReservations(request)).reservations:
        found += [reservation.order_id for reservation in page]
        request.after.CopyFrom(page[-1])
    assert [order_id for order_id in found if order_id in orders] == [orders[0], orders[2], orders[1]]
    assert sorted(await _expire(catalog, *orders)) == sorted(orders)


async def test_no_more_is_written_off_than_is_available(catalog: Catalog):
    product = await catalog.new_product(units=3)
    await catalog.reserve(new_id(), (product.id, 2))
    assert (await refusal(_adjust(catalog, product.id, -2))).reason == "OUT_OF_STOCK"
    assert _numbers(await _adjust(catalog, product.id, -1)) == (0, 2, 0, 2)
    assert (await refusal(_adjust(catalog, new_id(), 1))).reason == "PRODUCT_NOT_FOUND"


async def test_an_adjustment_is_made_once_under_one_key(catalog: Catalog):
    product = await catalog.new_product()
    request = AdjustStockRequest(product_id=product.id, delta=5)
    key = catalog.keyed()
    for _ in range(3):
        assert (await catalog.inventory.AdjustStock(request, metadata=key)).available == 5
    missing = await refusal(catalog.inventory.AdjustStock(request, metadata=catalog.staff))
    assert missing.reason == "IDEMPOTENCY_KEY_REQUIRED"


@pytest.mark.parametrize("workload", ["developer", "projects"])
async def test_only_ordering_reserves(catalog: Catalog, workload: str):
    stub = InventoryServiceStub(catalog.mesh.channel(workload))
    refused = await refusal(stub.ReleaseStock(ReleaseStockRequest(order_id=new_id())))
    assert refused.reason == "WORKLOAD_NOT_ALLOWED"


@dataclass
class _Model:
    """What the stock of two products must be, told in the plainest way."""

    free: list[int] = field(default_factory=lambda: [6, 4])
    reserved: list[int] = field(default_factory=lambda: [0, 0])
    sold: list[int] = field(default_factory=lambda: [0, 0])
    orders: dict[int, tuple[str, tuple[int, int]]] = field(default_factory=dict)

    def reserve(self, order: int, units: tuple[int, int]) -> None:
        if order not in self.orders and all(map(int.__le__, units, self.free)):
            self.orders[order] = ("held", units)
            self._move(units, self.free, self.reserved)

    def commit(self, order: int) -> None:
        status, units = self.orders.get(order, ("", (0, 0)))
        if status == "held":
            self.orders[order] = ("committed", units)
            self._move(units, self.reserved, self.sold)

    def release(self, order: int) -> None:
        status, units = self.orders.get(order, ("", (0, 0)))
        if status != "committed":
            self.orders[order] = ("released", units)
        if status == "held":
            self._move(units, self.reserved, self.free)

    def expire(self, order: int) -> None:
        status, units = self.orders.get(order, ("", (0, 0)))
        if status == "held":
            del self.orders[order]
            self._move(units, self.reserved, self.free)

    @staticmethod
    def _move(units: tuple[int, int], source: list[int], target: list[int]) -> None:
        for product, quantity in enumerate(units):
            source[product] -= quantity
            target[product] += quantity


_STEPS = st.lists(
    st.tuples(
        st.sampled_from(["reserve", "commit", "release", "expire"]),
        st.integers(0, 3),
        st.tuples(st.integers(0, 3), st.integers(0, 3)).filter(any),
    ),
    min_size=1,
    max_size=14,
)


_ENDS: dict[str, Callable[[Catalog, str], Awaitable[Any]]] = {
    "commit": _commit,
    "release": _release,
    "expire": _expire,
}


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=_STEPS)
async def test_any_sequence_of_calls_leaves_the_stock_that_plain_counting_gives(catalog: Catalog, steps: Any):
    products = [(await catalog.new_product(units=units)).id for units in (6, 4)]
    orders, model = [new_id() for _ in range(4)], _Model()
    for verb, order, units in steps:
        if verb == "reserve":
            lines = [(product, wanted) for product, wanted in zip(products, units, strict=True) if wanted]
            await _outcome(catalog.reserve(orders[order], *lines))
            model.reserve(order, units)
        else:
            await _outcome(_ENDS[verb](catalog, orders[order]))
            getattr(model, verb)(order)
    for index, product in enumerate(products):
        expected = (model.free[index], model.reserved[index], model.sold[index], (6, 4)[index])
        assert _numbers(await catalog.stock(product)) == expected == await _ledger(catalog, product)


async def test_the_database_itself_refuses_stock_that_does_not_add_up(catalog: Catalog):
    product = await catalog.new_product(units=1)
    async with await psycopg.AsyncConnection.connect(catalog.mesh.database_url("catalog")) as database:
        for wrong in ("available = available - 1", "available = -1, received = -1", "sold = sold + 1"):
            with pytest.raises(psycopg.errors.CheckViolation):
                await database.execute(f"UPDATE stock SET {wrong} WHERE product_id = %s", [UUID(product.id)])
            await database.rollback()
