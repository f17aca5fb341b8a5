"""Rows and entities ↔ messages."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from google.protobuf.timestamp_pb2 import Timestamp
from protomesh.catalog.v1 import inventory_service_pb2
from protomesh.ordering.v1 import order_pb2, order_service_pb2, ordering_events_pb2
from protomesh.type.v1.money_pb2 import Money

from chassis.errors import FailedPrecondition
from chassis.reads import Row
from services.ordering.model import Order, OrderItem

Prices = Sequence[inventory_service_pb2.ProductPrice]


def order_items(lines: Sequence[order_service_pb2.PlaceOrderLine], prices: Prices) -> list[OrderItem]:
    """The items of a new order; `prices` stand in the order of `lines`."""
    return [
        OrderItem(
            position=position,
            product_id=UUID(line.product_id),
            sku=price.sku,
            name=price.name,
            quantity=line.quantity,
            unit_price_minor=price.unit_price.amount_minor,
        )
        for position, (line, price) in enumerate(zip(lines, prices, strict=True), start=1)
    ]


def order_message(row: Row) -> order_pb2.Order:
    """A row of an order with its lines, and with its history when it was read too."""
    message = order_pb2.Order(
        id=str(row.id),
        buyer_id=str(row.buyer_id),
        status=order_pb2.Order.Status.Value(row.status),
        lines=[_line(line, row.currency_code) for line in row.lines],
        total=Money(currency_code=row.currency_code, amount_minor=row.total_minor),
        shipping_note=row.shipping_note,
        reason=row.reason,
        version=row.version,
        created_at=_timestamp(row.created_at),
        updated_at=_timestamp(row.updated_at),
    )
    message.history.extend(_transition(entry) for entry in getattr(row, "history", ()))
    return message


def _line(line: Mapping[str, Any], currency: str) -> order_pb2.OrderLine:
    quantity, unit_price = line["quantity"], line["unit_price_minor"]
    return order_pb2.OrderLine(
        product_id=line["product_id"],
        sku=line["sku"],
        name=line["name"],
        quantity=quantity,
        unit_price=Money(currency_code=currency, amount_minor=unit_price),
        line_total=Money(currency_code=currency, amount_minor=quantity * unit_price),
    )


def _transition(entry: Mapping[str, Any]) -> order_pb2.OrderTransition:
    return order_pb2.OrderTransition(
        version=entry["version"],
        status=order_pb2.Order.Status.Value(entry["status"]),
        reason=entry["reason"],
        changed_at=_timestamp(datetime.fromisoformat(entry["changed_at"])),
    )


def rejection(row: Row) -> FailedPrecondition:
    """What the buyer of a rejected order is told, the first time and every other."""
    return FailedPrecondition(row.reason, row.rejection["message"], metadata=row.rejection["metadata"])


def status_name(status: order_pb2.Order.Status.ValueType) -> str:
    """The status as it is stored; "" when any is meant."""
    return order_pb2.Order.Status.Name(status) if status else ""


def stock_lines(lines: Sequence[Any]) -> list[inventory_service_pb2.StockLine]:
    """What to reserve, for anything that has product_id and quantity."""
    return [
        inventory_service_pb2.StockLine(product_id=str(line.product_id), quantity=line.quantity)
        for line in lines
    ]


def order_placed(order: Order) -> ordering_events_pb2.OrderPlaced:
    return ordering_events_pb2.OrderPlaced(
        order_id=str(order.id),
        buyer_id=str(order.buyer_id),
        total=Money(currency_code=order.currency_code, amount_minor=order.total_minor),
        placed_at=_timestamp(order.updated_at),
    )


def order_cancelled(order: Order) -> ordering_events_pb2.OrderCancelled:
    return ordering_events_pb2.OrderCancelled(
        order_id=str(order.id),
        buyer_id=str(order.buyer_id),
        reason=order.reason,
        cancelled_at=_timestamp(order.updated_at),
    )


def _timestamp(moment: datetime) -> Timestamp:
    timestamp = Timestamp()
    timestamp.FromDatetime(moment)
    return timestamp
