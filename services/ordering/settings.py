"""The settings of ordering, in addition to those of every service."""

from datetime import timedelta

from pydantic import Field

from chassis.core import Settings


class OrderingSettings(Settings):
    """Settings of ordering."""

    unpaid_order_seconds: int = Field(
        1800,
        ge=1,
        le=30 * 24 * 3600,
        description="Seconds after which an unpaid order expires and its stock is released.",
    )
    unpaid_orders_per_buyer: int = Field(
        200, ge=1, description="Maximum number of unpaid orders of one buyer at a time."
    )

    @property
    def unpaid_order_life(self) -> timedelta:
        """How long an order waits for payment."""
        return timedelta(seconds=self.unpaid_order_seconds)
