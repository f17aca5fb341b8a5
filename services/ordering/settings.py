"""What an operator may set for ordering, besides what every service has."""

from datetime import timedelta

from pydantic import Field

from chassis.core import Settings


class OrderingSettings(Settings):
    """Settings of ordering."""

    unpaid_order_seconds: int = Field(
        1800,
        ge=1,
        le=30 * 24 * 3600,
        description="Seconds after which an order that is not paid expires, and its stock goes back.",
    )
    unpaid_orders_per_buyer: int = Field(
        200, ge=1, description="Orders of one buyer that may wait for their payment at a time."
    )

    @property
    def unpaid_order_life(self) -> timedelta:
        """How long an order waits for its payment."""
        return timedelta(seconds=self.unpaid_order_seconds)
