"""The tables of catalog and their rules. Times are UTC, prices are in minor units."""

from __future__ import annotations

import enum
from datetime import datetime
from uuid import UUID

from sqlalchemy import ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from chassis.core import FailedPrecondition
from chassis.data import Model, Resource

MAXIMUM_DEPTH = 8


class ProductStatus(enum.StrEnum):
    """Whether a product is for sale; the contract's `Product.Status` says what each means."""

    DRAFT = "draft"
    ACTIVE = "active"
    ARCHIVED = "archived"


class ReservationStatus(enum.StrEnum):
    """The status of a reservation; the contract's `Reservation.Status` says what each means."""

    HELD = "held"
    COMMITTED = "committed"
    RELEASED = "released"
    EXPIRED = "expired"


def normal_sku(sku: str) -> str:
    """Returns the spelling of a SKU that is stored and looked up: `" 85123a"` and `"85123A"` are one product."""
    return " ".join(sku.split()).upper()


def normal_name(name: str) -> str:
    """Returns a name as it is stored: without outer whitespace."""
    return name.strip()


class Category(Resource):
    """A category. `path` holds the slugs from the top level, so that a subtree is a prefix."""

    __tablename__ = "categories"

    parent_id: Mapped[UUID | None] = mapped_column(ForeignKey("categories.id"))
    slug: Mapped[str]
    name: Mapped[str]
    position: Mapped[int]
    path: Mapped[str]
    depth: Mapped[int]

    @classmethod
    def create(cls, id: UUID, parent: Category | None, slug: str, name: str, position: int) -> Category:
        """Returns a new category below `parent`, or at the top level. Raises FailedPrecondition CATEGORY_TOO_DEEP."""
        category = cls.new(id, slug=slug, name=name, position=position)
        category.hang(parent)
        category.created_at = category.updated_at
        return category

    def hang(self, parent: Category | None) -> None:
        """Moves it below `parent`, or to the top. Raises FailedPrecondition CATEGORY_CYCLE or CATEGORY_TOO_DEEP."""
        if parent and (parent.path == self.path or parent.path.startswith(f"{self.path}/")):
            raise FailedPrecondition("CATEGORY_CYCLE", "A category cannot move below itself.")
        depth = parent.depth + 1 if parent else 0
        check_depth(depth)
        path = f"{parent.path}/{self.slug}" if parent else self.slug
        self.change(parent_id=parent.id if parent else None, path=path, depth=depth)


def check_depth(depth: int) -> None:
    """Raises FailedPrecondition CATEGORY_TOO_DEEP for a level that is too deep; 0 is the top level."""
    if depth >= MAXIMUM_DEPTH:
        raise FailedPrecondition("CATEGORY_TOO_DEEP", f"Categories are at most {MAXIMUM_DEPTH} levels deep.")


class Product(Resource):
    """A product."""

    __tablename__ = "products"

    sku: Mapped[str]
    name: Mapped[str]
    description: Mapped[str]
    category_id: Mapped[UUID | None] = mapped_column(ForeignKey("categories.id"))
    currency_code: Mapped[str]
    price_minor: Mapped[int]
    status: Mapped[str]
    image_urls: Mapped[list[str]]


class Stock(Model):
    """Units of a product: available + reserved + sold = received."""

    __tablename__ = "stock"

    product_id: Mapped[UUID] = mapped_column(ForeignKey("products.id"), primary_key=True)
    available: Mapped[int]
    reserved: Mapped[int]
    sold: Mapped[int]
    received: Mapped[int]


class Reservation(Model):
    """The stock that an order holds, and until when.

    A released reservation stays released, even if the order's call to reserve arrives late. An expired one can be made
    again.
    """

    __tablename__ = "reservations"

    order_id: Mapped[UUID] = mapped_column(primary_key=True)
    status: Mapped[str]
    # When it was made, or last requested again: its order is written soon after, or never.
    reserved_at: Mapped[datetime]
    expires_at: Mapped[datetime]
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]


class ReservationLine(Model):
    """Units of one product that an order holds."""

    __tablename__ = "reservation_lines"

    order_id: Mapped[UUID] = mapped_column(ForeignKey("reservations.order_id"), primary_key=True)
    product_id: Mapped[UUID] = mapped_column(ForeignKey("products.id"), primary_key=True)
    quantity: Mapped[int]


class StockMovement(Model):
    """The ledger: every change of stock, from which each row of `stock` can be computed again.

    `received` adds to available and received (a write-off is negative), `reserved` moves units from available to
    reserved, `committed` from reserved to sold, `released` from reserved back to available.
    """

    __tablename__ = "stock_movements"

    id: Mapped[int] = mapped_column(primary_key=True)
    product_id: Mapped[UUID] = mapped_column(ForeignKey("products.id"))
    order_id: Mapped[UUID | None]
    kind: Mapped[str]
    quantity: Mapped[int]
    reason: Mapped[str]
    actor_id: Mapped[str]
    created_at: Mapped[datetime]
