"""Rows and entities ↔ messages."""

from collections.abc import Iterable, Sequence
from typing import Any
from uuid import UUID

from protomesh.catalog.v1.category_pb2 import Category
from protomesh.catalog.v1.category_service_pb2 import CategoryNode, CategoryTree, UpdateCategoryRequest
from protomesh.catalog.v1.inventory_service_pb2 import (
    HeldReservation,
    ProductPrice,
    Reservation,
    ReserveStockRequest,
    Stock,
    StockLine,
)
from protomesh.catalog.v1.product_pb2 import Product
from protomesh.catalog.v1.product_service_pb2 import UpdateProductRequest
from protomesh.type.v1.money_pb2 import Money

from chassis.core import timestamp
from services.catalog.model import ReservationStatus, normal_name, normal_sku
from services.catalog.pricing import Lines, Wanted

_PRODUCT_STATUS = dict(Product.Status.items())
_RESERVATION_STATUS = dict(Reservation.Status.items())


def product_message(product: Any, available: int) -> Product:
    """A product, from a row or an entity."""
    return Product(
        id=str(product.id),
        sku=product.sku,
        name=product.name,
        description=product.description,
        category_id=str(product.category_id) if product.category_id else "",
        price=Money(currency_code=product.currency_code, amount_minor=product.price_minor),
        status=_PRODUCT_STATUS[product.status],
        available=available,
        in_stock=available > 0,
        image_urls=product.image_urls,
        etag=str(product.version),
        created_at=timestamp(product.created_at),
        updated_at=timestamp(product.updated_at),
    )


def listed_product(row: Any) -> Product:
    """A product, from a row with its available units."""
    return product_message(row, row.available)


def product_status(value: Product.Status.ValueType) -> str:
    """A status as it is kept."""
    return Product.Status.Name(value)


def product_changes(request: UpdateProductRequest) -> dict[str, Any]:
    """The columns that the request changes, and no others."""
    changes: dict[str, Any] = {}
    if request.HasField("name"):
        changes["name"] = normal_name(request.name)
    if request.HasField("description"):
        changes["description"] = request.description
    if request.HasField("sku"):
        changes["sku"] = normal_sku(request.sku)
    if request.HasField("category_id"):
        changes["category_id"] = UUID(request.category_id) if request.category_id else None
    if request.HasField("price"):
        changes |= {"currency_code": request.price.currency_code, "price_minor": request.price.amount_minor}
    if request.HasField("status"):
        changes["status"] = product_status(request.status)
    if request.image_urls:
        changes["image_urls"] = list(request.image_urls)
    return changes


def category_message(category: Any) -> Category:
    """A category, from a row or an entity."""
    return Category(
        id=str(category.id),
        parent_id=str(category.parent_id) if category.parent_id else "",
        slug=category.slug,
        name=category.name,
        position=category.position,
        path=category.path,
        depth=category.depth,
        etag=str(category.version),
        created_at=timestamp(category.created_at),
        updated_at=timestamp(category.updated_at),
    )


def category_changes(request: UpdateCategoryRequest) -> dict[str, Any]:
    """The columns that the request changes, but for the parent, which the tree has a say in."""
    return {
        field: getattr(request, field) for field in ("slug", "name", "position") if request.HasField(field)
    }


def category_tree(rows: Sequence[Any], root_id: UUID | None) -> CategoryTree:
    """The tree below a category, or the whole one, from rows in which whatever is above comes first."""
    children: dict[UUID | None, list[Any]] = {}
    for row in sorted(rows, key=lambda row: (row.position, row.name, row.path)):
        children.setdefault(row.parent_id, []).append(row)

    def nodes(parent_id: UUID | None) -> list[CategoryNode]:
        return [
            CategoryNode(category=category_message(row), children=nodes(row.id))
            for row in children.get(parent_id, [])
        ]

    return CategoryTree(data=nodes(root_id))


def wanted(request: ReserveStockRequest) -> Wanted:
    """What an order wants, in the order in which stock is taken; two spellings of one id are one product."""
    units: dict[UUID, int] = {}
    for line in request.lines:
        product_id = UUID(line.product_id)
        units[product_id] = units.get(product_id, 0) + line.quantity
    return Wanted(
        order_id=UUID(request.order_id),
        lines=dict(sorted(units.items())),
        hold=request.hold.ToTimedelta(),
        expected_total=request.expected_total if request.HasField("expected_total") else None,
    )


def reservation_message(
    order_id: UUID, status: ReservationStatus, lines: Lines, prices: Iterable[Any] = ()
) -> Reservation:
    """A reservation, with the prices of its lines from rows when it was asked for them."""
    by_product = {row.product_id: row for row in prices}
    return Reservation(
        order_id=str(order_id),
        status=_RESERVATION_STATUS[status.value],
        lines=[StockLine(product_id=str(product), quantity=units) for product, units in lines.items()],
        prices=[_price_message(by_product[product]) for product in lines] if by_product else (),
    )


def held_message(row: Any) -> HeldReservation:
    """A reservation that holds stock, and since when, from a row."""
    return HeldReservation(order_id=str(row.order_id), reserved_at=timestamp(row.reserved_at))


def stock_message(stock: Any) -> Stock:
    """A product's stock, from a row."""
    return Stock(
        product_id=str(stock.product_id),
        available=stock.available,
        reserved=stock.reserved,
        sold=stock.sold,
        received=stock.received,
    )


def _price_message(product: Any) -> ProductPrice:
    return ProductPrice(
        product_id=str(product.product_id),
        sku=product.sku,
        name=product.name,
        unit_price=Money(currency_code=product.currency_code, amount_minor=product.price_minor),
    )
