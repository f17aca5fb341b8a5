"""What the lines of an order come to."""

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
    """What an order wants reserved, for how long, and what its buyer expects that it comes to."""

    order_id: UUID
    lines: Lines
    hold: timedelta
    expected_total: Money | None

    def check_prices(self, products: Sequence[Row]) -> None:
        """Refuses prices in several currencies, and those that come to something else than was expected.

        FailedPrecondition CURRENCY_MIXED or TOTAL_CHANGED.
        """
        currencies = sorted({product.currency_code for product in products})
        if len(currencies) > 1:
            sentence = "The products are priced in several currencies."
            raise FailedPrecondition(
                "CURRENCY_MIXED", sentence, metadata={"currencies": ",".join(currencies)}
            )
        if self.expected_total is None:
            return
        total = sum(product.price_minor * self.lines[product.product_id] for product in products)
        expected = self.expected_total
        if (expected.currency_code, expected.amount_minor) != (currencies[0], total):
            metadata = {"currency_code": currencies[0], "amount_minor": str(total)}
            sentence = "The order comes to another total than was expected."
            raise FailedPrecondition("TOTAL_CHANGED", sentence, metadata=metadata)
