"""What tests of orders do again and again: stock a product, place an order, look at the stock."""

import asyncio
import contextlib
import secrets
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import httpx

from tests.mesh import Mesh, User


class Shop:
    """A running mesh, seen by staff who stock it and customers who buy."""

    def __init__(self, mesh: Mesh, http: httpx.AsyncClient | None = None) -> None:
        self._mesh = mesh
        self._http = http or mesh.http
        self._staff_headers: dict[str, str] = {}

    async def new_product(self, units: int, price_minor: int = 250) -> str:
        """Makes a product with so many units in stock, and gives its id."""
        sku = f"T{secrets.token_hex(6)}"
        price = {"currency_code": "GBP", "amount_minor": str(price_minor)}
        body = {"sku": sku, "name": f"Test product {sku}", "price": price}
        product = await self._http.post("/v1/products", json=body, headers=await self._staff())
        assert product.status_code == 201, product.text
        product_id: str = product.json()["id"]
        if units:
            await self.receive(product_id, units)
        return product_id

    async def receive(self, product_id: str, units: int) -> None:
        """Puts units of a product into stock."""
        path = f"/v1/products/{product_id}/stock:adjust"
        answer = await self._http.post(path, json={"delta": units}, headers=await self._staff() | fresh_key())
        assert answer.status_code == 200, answer.text

    async def place(
        self, buyer: User, lines: Mapping[str, int], key: str = "", **fields: Any
    ) -> httpx.Response:
        """Places an order of {product id: quantity}, under a key of its own unless one is given."""
        ordered = [{"product_id": product_id, "quantity": quantity} for product_id, quantity in lines.items()]
        headers = buyer.headers | ({"idempotency-key": key} if key else fresh_key())
        return await self._http.post(
            "/v1/orders", json={"lines": ordered, **fields}, headers=headers, timeout=30
        )

    async def ordered(self, buyer: User, lines: Mapping[str, int]) -> dict[str, Any]:
        """Places an order that must be accepted, and gives it."""
        answer = await self.place(buyer, lines)
        assert answer.status_code == 201, answer.text
        order: dict[str, Any] = answer.json()
        return order

    async def get(self, buyer: User, order_id: str) -> httpx.Response:
        return await self._http.get(f"/v1/orders/{order_id}", headers=buyer.headers)

    async def cancel(self, buyer: User, order_id: str, reason: str = "") -> httpx.Response:
        path = f"/v1/orders/{order_id}:cancel"
        return await self._http.post(path, json={"reason": reason}, headers=buyer.headers)

    async def stock(self, product_id: str) -> tuple[int, int]:
        """Units of a product that are available, and that are reserved."""
        answer = await self._http.get(f"/v1/products/{product_id}/stock", headers=await self._staff())
        assert answer.status_code == 200, answer.text
        return int(answer.json()["available"]), int(answer.json()["reserved"])

    async def _staff(self) -> dict[str, str]:
        if not self._staff_headers:
            self._staff_headers = {"authorization": f"Bearer {await self._mesh.staff_token()}"}
        return self._staff_headers


def fresh_key() -> dict[str, str]:
    return {"idempotency-key": secrets.token_hex(16)}


def reason_of(answer: httpx.Response) -> str:
    """The reason in an error's ErrorInfo."""
    reasons: list[str] = [detail["reason"] for detail in answer.json()["details"] if "reason" in detail]
    return reasons[0]


async def insist(call: Callable[[], Awaitable[httpx.Response]], seconds: float = 180.0) -> httpx.Response:
    """What a patient client does: asks again, under the same key, until the answer is final.

    Conflicts, overload and unavailability (409, 429 and all from 500) pass; everything else is an answer.
    """
    async with asyncio.timeout(seconds):
        while True:
            with contextlib.suppress(httpx.TransportError):
                answer = await call()
                if answer.status_code < 409:
                    return answer
            await asyncio.sleep(0.2)
