"""Orders and their rules: which status follows which, and the total of an order."""

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

from sqlalchemy import ForeignKey
from sqlalchemy.orm import Mapped, mapped_column, relationship

from chassis.core import FailedPrecondition
from chassis.data import Model

LARGEST_AMOUNT = 2**63 - 1


class Status(enum.StrEnum):
    """The status of an order; the contract's `Order.Status` says what each means."""

    PENDING_PAYMENT = "pending_payment"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


NEXT: Mapping[Status, frozenset[Status]] = {
    Status.PENDING_PAYMENT: frozenset({Status.CANCELLED, Status.EXPIRED}),
    Status.CANCELLED: frozenset(),
    Status.EXPIRED: frozenset(),
}
FINAL = frozenset(status for status, following in NEXT.items() if not following)


class OrderItem(Model):
    """A product in an order, at the price when the order was placed."""

    __tablename__ = "order_items"

    order_id: Mapped[UUID] = mapped_column(ForeignKey("orders.id", ondelete="CASCADE"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    product_id: Mapped[UUID]
    sku: Mapped[str]
    name: Mapped[str]
    quantity: Mapped[int]
    unit_price_minor: Mapped[int]


@dataclass(frozen=True, slots=True)
class NewItem:
    """An `OrderItem` that is not written yet."""

    position: int
    product_id: UUID
    sku: str
    name: str
    quantity: int
    unit_price_minor: int


@dataclass(frozen=True, slots=True)
class NewOrder:
    """An `Order` that waits for payment and is not written yet.

    Not an entity: SQLAlchemy would keep books on every attribute, and one prepared statement writes the order.
    """

    id: UUID
    buyer_id: UUID
    items: Sequence[NewItem]
    currency_code: str
    total_minor: int
    shipping_note: str
    created_at: datetime
    updated_at: datetime
    expires_at: datetime
    status: str = Status.PENDING_PAYMENT.value
    reason: str = ""
    version: int = 1

    @classmethod
    def place(
        cls,
        id: UUID,
        buyer_id: UUID,
        items: Sequence[NewItem],
        *,
        currency: str,
        note: str = "",
        at: datetime,
        payable_for: timedelta,
    ) -> "NewOrder":
        """Returns a new order. Raises FailedPrecondition ORDER_TOTAL_TOO_LARGE."""
        total = sum(item.quantity * item.unit_price_minor for item in items)
        if total > LARGEST_AMOUNT:
            raise FailedPrecondition(
                "ORDER_TOTAL_TOO_LARGE", "The total of the order is too large; split it into several orders."
            )
        return cls(
            id=id,
            buyer_id=buyer_id,
            items=items,
            currency_code=currency,
            total_minor=total,
            shipping_note=note,
            created_at=at,
            updated_at=at,
            expires_at=at + payable_for,
        )


class OrderTransition(Model):
    """A status that an order had, and why: the state of its row at that version."""

    __tablename__ = "order_transitions"

    order_id: Mapped[UUID] = mapped_column(ForeignKey("orders.id", ondelete="CASCADE"), primary_key=True)
    version: Mapped[int] = mapped_column(primary_key=True)
    status: Mapped[str]
    reason: Mapped[str]
    changed_at: Mapped[datetime]


class Order(Model):
    """An order. Its version guards it: of two transactions that change the same version, one fails."""

    __tablename__ = "orders"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    buyer_id: Mapped[UUID]
    status: Mapped[str]
    currency_code: Mapped[str]
    total_minor: Mapped[int]
    shipping_note: Mapped[str]
    reason: Mapped[str]
    version: Mapped[int] = mapped_column()
    # When placing the order began. The database refuses to commit an order much later (`orders_written_in_time`).
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    # None once it can no longer expire.
    expires_at: Mapped[datetime | None]
    items: Mapped[list[OrderItem]] = relationship(lazy="raise", order_by=OrderItem.position)

    __mapper_args__ = {"version_id_col": version, "version_id_generator": False}  # noqa: RUF012 (SQLAlchemy declares the name)

    def cancel(self, reason: str) -> bool:
        """Cancels the order; returns False when it is already cancelled.

        Raises FailedPrecondition ORDER_NOT_CANCELLABLE.
        """
        if self.status == Status.CANCELLED:
            return False
        if Status.CANCELLED not in NEXT[Status(self.status)]:
            sentence = f"An order that is {self.status} cannot be cancelled."
            raise FailedPrecondition("ORDER_NOT_CANCELLABLE", sentence, metadata={"status": self.status})
        self._become(Status.CANCELLED, reason)
        return True

    def expire(self) -> None:
        """Expires the order, because it was not paid in time."""
        self._become(Status.EXPIRED)

    def _become(self, status: Status, reason: str = "") -> None:
        if status not in NEXT[Status(self.status)]:
            raise ValueError(f"{self.status} is never followed by {status}")
        self.status, self.reason = status.value, reason
        self.expires_at = None
        self.version += 1
        self.updated_at = datetime.now(UTC)
