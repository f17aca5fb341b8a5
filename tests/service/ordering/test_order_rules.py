"""What follows what in an order's life; no database, no network."""

import uuid
from datetime import UTC, datetime, timedelta

import pytest

from chassis.core import FailedPrecondition
from services.ordering.model import LARGEST_AMOUNT, NewItem, NewOrder, Order

NOON, HALF_AN_HOUR = datetime(2026, 1, 1, 12, tzinfo=UTC), timedelta(minutes=30)


def placed(*prices: int, quantity: int = 1) -> NewOrder:
    items = [
        NewItem(n, uuid.uuid4(), "A", "A", quantity, price)
        for n, price in enumerate(prices or (100,), start=1)
    ]
    return NewOrder.place(
        uuid.uuid4(), uuid.uuid4(), items, currency="GBP", at=NOON, payable_for=HALF_AN_HOUR
    )


def unpaid() -> Order:
    new = placed()
    return Order(status=new.status, version=new.version, reason=new.reason, expires_at=new.expires_at)


def cancelled() -> Order:
    order = unpaid()
    order.cancel("")
    return order


def expired() -> Order:
    order = unpaid()
    order.expire()
    return order


def test_an_order_comes_to_the_sum_of_its_lines():
    assert placed(250, 1999, quantity=3).total_minor == 3 * (250 + 1999)


def test_an_order_that_comes_to_more_than_can_be_stored_is_refused():
    assert placed(LARGEST_AMOUNT).total_minor == LARGEST_AMOUNT
    with pytest.raises(FailedPrecondition, match="ORDER_TOTAL_TOO_LARGE"):
        placed(LARGEST_AMOUNT, 1)


def test_an_order_expires_unless_it_is_paid_in_time():
    order = unpaid()
    assert (order.status, order.version, order.expires_at) == ("pending_payment", 1, NOON + HALF_AN_HOUR)
    order.expire()
    assert (order.status, order.version, order.expires_at) == ("expired", 2, None)


def test_an_order_that_is_cancelled_does_not_expire():
    order = unpaid()
    assert order.cancel("too late")
    assert (order.status, order.version, order.reason) == ("cancelled", 2, "too late")
    assert order.expires_at is None
    with pytest.raises(ValueError, match="never followed"):
        order.expire()


def test_cancelling_again_changes_nothing():
    order = cancelled()
    assert not order.cancel("again")
    assert (order.version, order.reason) == (2, "")


def test_an_order_that_has_expired_cannot_be_cancelled():
    with pytest.raises(FailedPrecondition, match="ORDER_NOT_CANCELLABLE"):
        expired().cancel("")
