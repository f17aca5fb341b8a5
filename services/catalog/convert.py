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
from protomesh.catalog.v1.product_service_pb2 import CreateProductRequest, UpdateProductRequest
from protomesh.type.v1.money_pb2 import Money

from chassis.contract.mapping import Mapper
from services.catalog import model
from services.catalog.model import ReservationStatus, normal_name, normal_sku
from services.catalog.pricing import Lines, Wanted

_RESERVATION_STATUS = dict(Reservation.Status.items())

_product = Mapper(Product, model.Product, without=("available", "in_stock"))
# A product from a row with its available units.
listed_product = Mapper(Product, {*dir(model.Product), "available"}, in_stock=lambda row: row.available > 0)
category_message = Mapper(Category, model.Category)
stock_message = Mapper(Stock, model.Stock)
_price_message = Mapper(
    ProductPrice,
    ("product_id", "sku", "name", "price_minor", "currency_code"),
    unit_price=lambda row: Money(currency_code=row.currency_code, amount_minor=row.price_minor),
)
held_message = Mapper(HeldReservation, ("order_id", "reserved_at"))


def product_message(product: Any, available: int) -> Product:
    """Returns a product from a row or an entity."""
    return _product(product, available=available, in_stock=available > 0)


def product_status(value: Product.Status.ValueType) -> str:
    """Returns a status as it is stored."""
    return Product.Status.Name(value)


def product_columns(request: CreateProductRequest) -> dict[str, Any]:
    """Returns the columns of a new product."""
    said = {"status": model.ProductStatus.ACTIVE.value} | model.Product.values(
        request, without=("initial_stock",)
    )
    return _as_kept(said)


def product_changes(request: UpdateProductRequest) -> dict[str, Any]:
    """Returns only the columns that the request changes."""
    return _as_kept(model.Product.sent(request))


def _as_kept(columns: dict[str, Any]) -> dict[str, Any]:
    for column, kept in (("name", normal_name), ("sku", normal_sku)):
        if column in columns:
            columns[column] = kept(columns[column])
    return columns


def category_changes(request: UpdateCategoryRequest) -> dict[str, Any]:
    """Returns the columns that the request changes, except the parent, which depends on the tree."""
    return model.Category.sent(request, without=("parent_id",))


def category_tree(rows: Sequence[Any], root_id: UUID | None) -> CategoryTree:
    """Returns the tree below a category, or the whole tree, from rows in which parents come first."""
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
    """Returns what an order requests, in the order in which stock is taken; two spellings of one id are one product."""
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
    """Returns a reservation, with the prices of its lines if rows with prices are given."""
    by_product = {row.product_id: row for row in prices}
    return Reservation(
        order_id=str(order_id),
        status=_RESERVATION_STATUS[status.value],
        lines=[StockLine(product_id=str(product), quantity=units) for product, units in lines.items()],
        prices=[_price_message(by_product[product]) for product in lines] if by_product else (),
    )
