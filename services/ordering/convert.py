"""Rows and entities ↔ messages."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from uuid import UUID

from protomesh.catalog.v1 import inventory_service_pb2
from protomesh.ordering.v1 import order_pb2, order_service_pb2, ordering_events_pb2
from protomesh.type.v1.money_pb2 import Money

from chassis.contract.mapping import Mapper
from chassis.core import timestamp
from chassis.data import Row
from services.ordering.model import NewItem, NewOrder, Order

_without_lines = Mapper(order_pb2.Order, Order, without=("lines", "history"))

Prices = Sequence[inventory_service_pb2.ProductPrice]


def order_items(lines: Sequence[order_service_pb2.PlaceOrderLine], prices: Prices) -> list[NewItem]:
    """Returns the items of a new order, in the order of `lines`, at the prices of their products."""
    by_product = {UUID(price.product_id): price for price in prices}
    items = []
    for position, line in enumerate(lines, start=1):
        product_id = UUID(line.product_id)
        price = by_product[product_id]
        items.append(
            NewItem(
                position=position,
                product_id=product_id,
                sku=price.sku,
                name=price.name,
                quantity=line.quantity,
                unit_price_minor=price.unit_price.amount_minor,
            )
        )
    return items


def order_message(row: Row) -> order_pb2.Order:
    """Returns an order from a row with its lines, and with its history if the row has it."""
    message = _without_lines(row)
    message.lines.extend(_line(row.currency_code, **line) for line in row.lines)
    message.history.extend(
        _transition(**entry | {"changed_at": datetime.fromisoformat(entry["changed_at"])})
        for entry in getattr(row, "history", ())
    )
    return message


def entity_message(order: Order | NewOrder) -> order_pb2.Order:
    """Returns an order with its lines, without its history."""
    message = _without_lines(order)
    message.lines.extend(
        _line(
            order.currency_code,
            str(item.product_id),
            item.sku,
            item.name,
            item.quantity,
            item.unit_price_minor,
        )
        for item in order.items
    )
    return message


def placed_message(order: NewOrder) -> order_pb2.Order:
    """Returns an order that was just placed, with its lines and its history."""
    message = entity_message(order)
    message.history.append(_transition(order.version, order.status, order.reason, order.updated_at))
    return message


def _line(
    currency: str, product_id: str, sku: str, name: str, quantity: int, unit_price_minor: int
) -> order_pb2.OrderLine:
    return order_pb2.OrderLine(
        product_id=product_id,
        sku=sku,
        name=name,
        quantity=quantity,
        unit_price=Money(currency_code=currency, amount_minor=unit_price_minor),
        line_total=Money(currency_code=currency, amount_minor=quantity * unit_price_minor),
    )


def _transition(version: int, status: str, reason: str, changed_at: datetime) -> order_pb2.OrderTransition:
    return order_pb2.OrderTransition(
        version=version,
        status=order_pb2.Order.Status.Value(status),
        reason=reason,
        changed_at=timestamp(changed_at),
    )


def status_name(status: order_pb2.Order.Status.ValueType) -> str:
    """Returns the status as it is stored; "" for any status."""
    return order_pb2.Order.Status.Name(status) if status else ""


def reservation(
    order_id: UUID, request: order_service_pb2.PlaceOrderRequest, hold: timedelta
) -> inventory_service_pb2.ReserveStockRequest:
    """Returns the request to reserve the lines for a time; the order's id is its key."""
    message = inventory_service_pb2.ReserveStockRequest(order_id=str(order_id))
    message.lines.extend(
        inventory_service_pb2.StockLine(product_id=line.product_id, quantity=line.quantity)
        for line in request.lines
    )
    message.hold.FromTimedelta(hold)
    if request.HasField("expected_total"):
        message.expected_total.CopyFrom(request.expected_total)
    return message


def order_placed(order: NewOrder) -> ordering_events_pb2.OrderPlaced:
    return ordering_events_pb2.OrderPlaced(
        order_id=str(order.id),
        buyer_id=str(order.buyer_id),
        total=Money(currency_code=order.currency_code, amount_minor=order.total_minor),
        placed_at=timestamp(order.updated_at),
        order=entity_message(order),
    )


def order_cancelled(order: Order) -> ordering_events_pb2.OrderCancelled:
    return ordering_events_pb2.OrderCancelled(
        order_id=str(order.id),
        buyer_id=str(order.buyer_id),
        reason=order.reason,
        cancelled_at=timestamp(order.updated_at),
        order=entity_message(order),
    )


def order_expired(order: Order) -> ordering_events_pb2.OrderExpired:
    return ordering_events_pb2.OrderExpired(
        order_id=str(order.id),
        buyer_id=str(order.buyer_id),
        expired_at=timestamp(order.updated_at),
        order=entity_message(order),
    )
