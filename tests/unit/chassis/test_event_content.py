"""What of an event is published."""

from protomesh.catalog.v1.catalog_events_pb2 import CategoryDeleted, ProductCreated
from protomesh.catalog.v1.category_pb2 import Category
from protomesh.catalog.v1.product_pb2 import Product
from protomesh.identity.v1.identity_events_pb2 import UserUpdated
from protomesh.identity.v1.user_pb2 import Account
from protomesh.ordering.v1.order_pb2 import Order, OrderLine
from protomesh.ordering.v1.ordering_events_pb2 import OrderPlaced

from chassis.contract import published


def test_an_event_tells_no_personal_data() -> None:
    account = Account(
        id="u1", username="anna", email="a@example.com", first_name="Anna", role=Account.customer
    )
    event = UserUpdated(user_id="u1", account=account)
    assert published(event) == UserUpdated(
        user_id="u1", account=Account(id="u1", username="anna", role=Account.customer)
    )
    assert event.account.email == "a@example.com"


def test_a_note_to_the_shipper_stays_with_the_order() -> None:
    order = Order(id="o1", shipping_note="Ring twice", lines=[OrderLine(sku="A", quantity=2)])
    event = OrderPlaced(order_id="o1", order=order)
    order.ClearField("shipping_note")
    assert published(event) == OrderPlaced(order_id="o1", order=order)


def test_an_event_tells_nothing_that_changes_apart_from_its_resource() -> None:
    event = ProductCreated(product_id="p1", product=Product(id="p1", available=5, in_stock=True, etag="3"))
    assert published(event) == ProductCreated(product_id="p1", product=Product(id="p1", etag="3"))


def test_an_event_with_nothing_to_hide_is_not_copied() -> None:
    event = CategoryDeleted(category_id="c1", category=Category(id="c1"))
    assert published(event) is event
