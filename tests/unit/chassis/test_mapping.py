"""Rows become messages, and requests become values, by name."""

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from google.protobuf import message_factory
from protomesh.catalog.v1.product_pb2 import Product
from protomesh.catalog.v1.product_service_pb2 import CreateProductRequest, UpdateProductRequest
from protomesh.ordering.v1.order_pb2 import Order, OrderLine
from protomesh.type.v1.money_pb2 import Money

from chassis.contract.mapping import Mapper, sent, values
from tests import protos

[FILE] = protos.compiled(
    "mapped.proto",
    """
    syntax = "proto3";
    package mapped.v1;
    import "google/protobuf/timestamp.proto";
    message Request {
      string name = 1;
      optional string nickname = 2;
      Colour colour = 3;
      google.protobuf.Timestamp due_at = 4;
      repeated string labels = 5;
      enum Colour { colour_unspecified = 0; red = 1; }
    }
    message Single { string name = 1; }
    """,
)
Request: Any = message_factory.GetMessageClass(FILE.message_types_by_name["Request"])
Single: Any = message_factory.GetMessageClass(FILE.message_types_by_name["Single"])

ID = UUID("01890a5d-ac96-774b-bcce-b302099a8057")
MOMENT = datetime(2026, 11, 21, 12, 30, 15, 123456, UTC)
LINE = Mapper(OrderLine, ("product_id", "sku"), without=("name", "quantity", "unit_price", "line_total"))


def product(**changes: Any) -> SimpleNamespace:
    columns = {
        "id": ID,
        "sku": "A1",
        "name": "Heart",
        "description": "",
        "category_id": None,
        "price_minor": 1299,
        "currency_code": "GBP",
        "status": "active",
        "available": 3,
        "image_urls": ["https://example.com/a.png"],
        "version": 7,
        "created_at": MOMENT,
        "updated_at": MOMENT,
    }
    return SimpleNamespace(**columns | changes)


PRODUCT = Mapper(Product, vars(product()), in_stock=lambda row: row.available > 0)


def test_a_row_becomes_a_message_by_the_names_alone():
    message = PRODUCT(product())
    assert message.id == str(ID)
    assert message.price == Money(currency_code="GBP", amount_minor=1299)
    assert message.status == Product.active
    assert message.created_at.ToDatetime(UTC) == MOMENT
    assert list(message.image_urls) == ["https://example.com/a.png"]
    assert message.etag == "7"
    assert message.in_stock


def test_null_is_what_is_not_set():
    message = PRODUCT(product(updated_at=None, price_minor=None, status=None, image_urls=None))
    assert message.category_id == ""
    assert not message.HasField("updated_at")
    assert not message.HasField("price")
    assert message.status == Product.status_unspecified
    assert not message.image_urls


def test_what_the_call_gives_stands_as_it_is():
    mapper = Mapper(Product, vars(product()), without=("available", "in_stock"))
    assert mapper(product(), available=9, in_stock=True).available == 9
    assert not mapper(product()).in_stock


def test_messages_within_have_a_mapper_of_their_own():
    names = ("id", "buyer_id", "currency_code", "total_minor", "lines")
    rest = set(Order.DESCRIPTOR.fields_by_name) - {"id", "buyer_id", "total", "lines"}
    mapper = Mapper(Order, names, without=rest, lines=LINE)
    lines = [SimpleNamespace(product_id=ID, sku="A1"), SimpleNamespace(product_id=ID, sku="B2")]
    row = SimpleNamespace(id=ID, buyer_id=ID, currency_code="GBP", total_minor=5, lines=lines)
    assert [line.sku for line in mapper(row).lines] == ["A1", "B2"]
    with pytest.raises(TypeError, match="lines holds messages"):
        Mapper(Order, names, without=rest)


def test_another_attribute_may_fill_a_field():
    mapper = Mapper(Single, ("title",), name="title")
    assert mapper(SimpleNamespace(title="A")) == Single(name="A")


def test_a_field_that_nothing_fills_is_found_when_the_mapper_is_defined():
    class Model:
        title: str = ""

    with pytest.raises(TypeError, match="Model has no 'name' to fill the field 'name' with"):
        Mapper(Single, Model)
    with pytest.raises(TypeError, match="no field 'colour'"):
        Mapper(Single, ("name",), colour="name")


def test_a_status_that_the_contract_does_not_know_is_not_sent_as_another():
    with pytest.raises(KeyError):
        PRODUCT(product(status="melted"))


def test_values_are_all_that_a_request_says():
    request = CreateProductRequest(sku="A1", price=Money(currency_code="GBP", amount_minor=5))
    assert (
        values(request).items()
        >= {
            "sku": "A1",
            "name": "",
            "price_minor": 5,
            "currency_code": "GBP",
        }.items()
    )
    assert "status" not in values(request)
    full = Request(nickname="", colour=Request.red, labels=["a"])
    full.due_at.FromDatetime(MOMENT)
    assert values(full) == {
        "name": "",
        "nickname": "",
        "colour": "red",
        "due_at": MOMENT,
        "labels": ["a"],
    }


def test_only_what_was_sent_changes():
    assert sent(UpdateProductRequest(id=str(ID), etag="3")) == {}
    request = UpdateProductRequest(
        id=str(ID), name="", status=Product.archived, price=Money(currency_code="EUR")
    )
    assert sent(request) == {"name": "", "status": "archived", "price_minor": 0, "currency_code": "EUR"}
    assert sent(Request(name="ignored", nickname="x", labels=["a"])) == {"nickname": "x", "labels": ["a"]}
