"""What follows what in an order's life; no database, no network."""

import uuid
from collections.abc import Callable

import pytest

from chassis.core import FailedPrecondition
from services.ordering.model import LARGEST_AMOUNT, Order, OrderItem


def placed(*prices: int, quantity: int = 1) -> Order:
    items = [
        OrderItem(position=n, product_id=uuid.uuid4(), quantity=quantity, unit_price_minor=price)
        for n, price in enumerate(prices, start=1)
    ]
    return Order.place(uuid.uuid4(), uuid.uuid4(), "GBP", items, "")


def accepted() -> Order:
    order = placed(100)
    order.accept()
    return order


def rejected() -> Order:
    order = placed(100)
    order.reject(FailedPrecondition("OUT_OF_STOCK", "None left.", metadata={"available": "0"}))
    return order


def cancelled() -> Order:
    order = accepted()
    order.cancel("")
    return order


def test_an_order_comes_to_the_sum_of_its_lines():
    assert placed(250, 1999, quantity=3).total_minor == 3 * (250 + 1999)


def test_an_order_that_comes_to_more_than_can_be_stored_is_refused():
    assert placed(LARGEST_AMOUNT).total_minor == LARGEST_AMOUNT
    with pytest.raises(FailedPrecondition, match="ORDER_TOTAL_TOO_LARGE"):
        placed(LARGEST_AMOUNT, 1)


def test_every_change_of_status_counts_the_version_up():
    order = placed(100)
    assert (order.status, order.version) == ("placing", 1)
    order.accept()
    assert (order.status, order.version) == ("pending_payment", 2)
    assert order.cancel("too late")
    assert (order.status, order.version, order.reason) == ("cancelled", 3, "too late")


def test_a_rejected_order_remembers_what_its_buyer_was_told():
    order = rejected()
    assert order.reason == "OUT_OF_STOCK"
    assert order.rejection == {"message": "None left.", "metadata": {"available": "0"}}


def test_cancelling_again_changes_nothing():
    order = cancelled()
    assert not order.cancel("again")
    assert (order.version, order.reason) == (3, "")


def test_a_rejected_order_cannot_be_cancelled():
    with pytest.raises(FailedPrecondition, match="ORDER_NOT_CANCELLABLE"):
        rejected().cancel("")


@pytest.mark.parametrize("decided", [accepted, rejected, cancelled])
def test_a_decided_order_is_not_decided_again(decided: Callable[[], Order]):
    for decide in (Order.accept, lambda order: order.reject(FailedPrecondition("LATE", ""))):
        with pytest.raises(ValueError, match="never followed"):
            decide(decided())
