"""The total of an order's lines."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from protomesh.type.v1.money_pb2 import Money

from chassis.core import FailedPrecondition
from chassis.data import Row

# Units by product.
Lines = Mapping[UUID, int]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What an order requests, for how long, and the total that its buyer expects."""

    order_id: UUID
    lines: Lines
    hold: timedelta
    expected_total: Money | None

    def check_prices(self, products: Sequence[Row]) -> None:
        """Raises FailedPrecondition CURRENCY_MIXED for prices in several currencies.

        Raises FailedPrecondition TOTAL_CHANGED when their total differs from the expected total.
        """
        currencies = sorted({product.currency_code for product in products})
        if len(currencies) > 1:
            sentence = "The products are priced in several currencies; place one order for each currency."
            raise FailedPrecondition(
                "CURRENCY_MIXED", sentence, metadata={"currencies": ",".join(currencies)}
            )
        if self.expected_total is None:
            return
        total = sum(product.price_minor * self.lines[product.product_id] for product in products)
        expected = self.expected_total
        if (expected.currency_code, expected.amount_minor) != (currencies[0], total):
            metadata = {"currency_code": currencies[0], "amount_minor": str(total)}
            sentence = "The total of the order differs from the expected total; check the current prices."
            raise FailedPrecondition("TOTAL_CHANGED", sentence, metadata=metadata)
