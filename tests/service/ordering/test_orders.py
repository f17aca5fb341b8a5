"""Orders through the edge: placing, reading, cancelling and following them."""

import asyncio
import json
import secrets
import uuid
from datetime import datetime, timedelta

import httpx
import pytest

from tests.mesh import Mesh, User
from tests.patience import UNFINISHED, eventually, patiently
from tests.shop import Shop, fresh_key, reason_of


@pytest.fixture
async def shop(mesh: Mesh) -> Shop:
    return Shop(mesh)


@pytest.fixture(scope="module")
async def buyer(mesh: Mesh) -> User:
    return await mesh.sign_up()


async def test_an_order_is_placed_at_the_catalog_s_prices_and_holds_its_stock(shop: Shop, buyer: User):
    mug, plate = await shop.new_product(10, 250), await shop.new_product(5, 1999)
    answer = await shop.place(buyer, {mug: 3, plate: 2}, shipping_note="second floor")
    order = answer.json()
    assert answer.status_code == 201
    assert order["status"] == "pending_payment"
    assert order["buyer_id"] == buyer.id
    assert order["total"] == {"currency_code": "GBP", "amount_minor": str(3 * 250 + 2 * 1999)}
    assert order["shipping_note"] == "second floor"
    assert [(line["product_id"], line["quantity"]) for line in order["lines"]] == [(mug, 3), (plate, 2)]
    assert order["lines"][1]["line_total"]["amount_minor"] == "3998"
    assert [entry["status"] for entry in order["history"]] == ["pending_payment"]
    placed_at, expires_at = (datetime.fromisoformat(order[name]) for name in ("created_at", "expires_at"))
    assert expires_at - placed_at == timedelta(minutes=30)
    assert await shop.stock(mug) == (7, 3)
    assert (await shop.get(buyer, order["id"])).json() == order


async def test_an_order_that_cannot_be_filled_takes_nothing_and_says_what_is_missing(shop: Shop, buyer: User):
    plenty, scarce = await shop.new_product(10), await shop.new_product(1)
    answer = await shop.place(buyer, {plenty: 1, scarce: 2})
    assert answer.status_code == 400
    assert answer.json()["code"] == 9
    assert reason_of(answer) == "OUT_OF_STOCK"
    assert answer.json()["details"][0]["metadata"]["product_id"] == scarce
    assert await shop.stock(plenty) == (10, 0)
    assert answer.json()["details"][0]["metadata"]["available"] == "1"
    newest = await shop._http.get("/v1/orders?limit=1", headers=buyer.headers)
    assert scarce not in newest.text


async def test_an_order_that_was_refused_is_refused_again_under_the_same_key_even_when_stock_came(
    shop: Shop, buyer: User
):
    product, key = await shop.new_product(0), secrets.token_hex(16)
    first = await shop.place(buyer, {product: 1}, key)
    await shop.receive(product, 5)
    second = await shop.place(buyer, {product: 1}, key)
    assert (first.status_code, first.json()) == (second.status_code, second.json())
    assert second.headers["idempotent-replayed"] == "true"
    assert await shop.stock(product) == (5, 0)


async def test_fifty_calls_at_once_under_one_key_place_one_order(shop: Shop, buyer: User):
    product, key = await shop.new_product(100), secrets.token_hex(16)

    async def place() -> httpx.Response:
        return await patiently(lambda: shop.place(buyer, {product: 2}, key))

    answers = await asyncio.gather(*(place() for _ in range(50)))
    placed = {answer.json()["id"] for answer in answers if answer.status_code == 201}
    others = [answer for answer in answers if answer.status_code != 201]
    assert len(placed) == 1
    assert {(answer.status_code, reason_of(answer)) for answer in others} <= {
        (409, "IDEMPOTENCY_KEY_IN_FLIGHT")
    }
    assert await shop.stock(product) == (98, 2)
    again = await shop.place(buyer, {product: 2}, key)
    assert {again.json()["id"]} == placed


async def test_a_key_that_was_used_for_another_order_is_refused(shop: Shop, buyer: User):
    product, key = await shop.new_product(10), secrets.token_hex(16)
    assert (await shop.place(buyer, {product: 1}, key)).status_code == 201
    answer = await shop.place(buyer, {product: 2}, key)
    assert (answer.status_code, reason_of(answer)) == (400, "IDEMPOTENCY_KEY_REUSED")
    assert await shop.stock(product) == (9, 1)


async def test_two_buyers_may_use_the_same_key(mesh: Mesh, shop: Shop, buyer: User):
    product, key = await shop.new_product(10), secrets.token_hex(16)
    first = await shop.place(buyer, {product: 1}, key)
    second = await shop.place(await mesh.sign_up(), {product: 1}, key)
    assert (first.status_code, second.status_code) == (201, 201)
    assert first.json()["id"] != second.json()["id"]


async def test_an_order_without_a_key_is_refused(mesh: Mesh, shop: Shop, buyer: User):
    product = await shop.new_product(1)
    body = {"lines": [{"product_id": product, "quantity": 1}]}
    answer = await mesh.http.post("/v1/orders", json=body, headers=buyer.headers)
    assert (answer.status_code, reason_of(answer)) == (400, "IDEMPOTENCY_KEY_REQUIRED")


@pytest.mark.parametrize(
    "lines",
    [
        pytest.param([], id="no lines"),
        pytest.param([{"product_id": "7", "quantity": 1}], id="no product id"),
        pytest.param([{"product_id": str(uuid.UUID(int=1)), "quantity": 0}], id="no units"),
        pytest.param([{"product_id": str(uuid.UUID(int=1)), "quantity": 100_001}], id="too many units"),
        pytest.param([{"product_id": str(uuid.UUID(int=1)), "quantity": 1}] * 2, id="a product twice"),
        pytest.param(
            [{"product_id": str(uuid.UUID(int=n)), "quantity": 1} for n in range(101)], id="too many lines"
        ),
    ],
)
async def test_lines_that_break_the_contract_are_refused(
    mesh: Mesh, buyer: User, lines: list[dict[str, object]]
):
    headers = buyer.headers | fresh_key()
    answer = await mesh.http.post("/v1/orders", json={"lines": lines}, headers=headers)
    assert (answer.status_code, reason_of(answer)) == (400, "VALIDATION_FAILED")


async def test_a_product_that_is_not_for_sale_cannot_be_ordered(shop: Shop, buyer: User):
    answer = await shop.place(buyer, {str(uuid.uuid4()): 1})
    assert (answer.status_code, reason_of(answer)) == (400, "PRODUCT_NOT_FOR_SALE")


async def test_somebody_else_s_order_is_as_if_it_were_not_there(mesh: Mesh, shop: Shop, buyer: User):
    order = await shop.ordered(buyer, {await shop.new_product(1): 1})
    stranger = await mesh.sign_up()
    missing = str(uuid.uuid4())
    for ask in (shop.get, shop.cancel):
        foreign, none = await ask(stranger, order["id"]), await ask(stranger, missing)
        assert (foreign.status_code, foreign.json()) == (none.status_code, none.json())
        assert (foreign.status_code, reason_of(foreign)) == (404, "ORDER_NOT_FOUND")
    watched = await mesh.http.get(f"/v1/orders/{order['id']}:watch", headers=stranger.headers)
    assert watched.status_code == 404
    assert (await mesh.http.get("/v1/orders", headers=stranger.headers)).json()["data"] == []


async def test_staff_reads_and_cancels_anybody_s_order(mesh: Mesh, shop: Shop, buyer: User):
    product = await shop.new_product(1)
    order = await shop.ordered(buyer, {product: 1})
    staff = {"authorization": f"Bearer {await mesh.staff_token()}"}
    assert (await mesh.http.get(f"/v1/orders/{order['id']}", headers=staff)).json() == order
    body = {"reason": "the warehouse burned down"}
    cancelled = await mesh.http.post(f"/v1/orders/{order['id']}:cancel", json=body, headers=staff)
    assert (cancelled.status_code, cancelled.json()["status"]) == (200, "cancelled")
    seen = (await shop.get(buyer, order["id"])).json()
    assert (seen["status"], seen["reason"]) == ("cancelled", "the warehouse burned down")


async def test_a_buyer_who_saw_another_price_is_refused_and_told_the_new_total(shop: Shop, buyer: User):
    product = await shop.new_product(5, price_minor=250)
    seen, other = ({"currency_code": "GBP", "amount_minor": amount} for amount in ("500", "499"))
    refused = await shop.place(buyer, {product: 2}, expected_total=other)
    assert (refused.status_code, reason_of(refused)) == (400, "TOTAL_CHANGED")
    assert refused.json()["details"][0]["metadata"] == {"currency_code": "GBP", "amount_minor": "500"}
    assert await shop.stock(product) == (5, 0)
    placed = await shop.place(buyer, {product: 2}, expected_total=seen)
    assert placed.json()["total"] == seen


async def test_a_list_holds_the_caller_s_own_orders_newest_first(mesh: Mesh, shop: Shop):
    buyer, product = await mesh.sign_up(), await shop.new_product(10)
    ids = [(await shop.ordered(buyer, {product: 1}))["id"] for _ in range(3)]
    await shop.cancel(buyer, ids[0])
    first = (await mesh.http.get("/v1/orders?limit=2", headers=buyer.headers)).json()
    assert [order["id"] for order in first["data"]] == [ids[2], ids[1]]
    assert (first["meta"]["total"], first["meta"]["page"], first["meta"]["limit"]) == (3, 1, 2)
    path = f"/v1/orders?limit=2&cursor={first['meta']['next_cursor']}"
    second = (await mesh.http.get(path, headers=buyer.headers)).json()
    assert [order["id"] for order in second["data"]] == [ids[0]]
    assert second["meta"]["next_cursor"] == ""
    cancelled = (await mesh.http.get("/v1/orders?status=cancelled", headers=buyer.headers)).json()
    assert [order["id"] for order in cancelled["data"]] == [ids[0]]


async def test_staff_lists_everybody_s_orders_and_customers_do_not(mesh: Mesh, shop: Shop, buyer: User):
    order = await shop.ordered(buyer, {await shop.new_product(1): 1})
    staff = {"authorization": f"Bearer {await mesh.staff_token()}"}
    found = await mesh.http.get(f"/v1/orders:all?buyer_id={buyer.id}&limit=1", headers=staff)
    assert [entry["id"] for entry in found.json()["data"]] == [order["id"]]
    refused = await mesh.http.get("/v1/orders:all", headers=buyer.headers)
    assert (refused.status_code, reason_of(refused)) == (403, "PERMISSION_MISSING")


async def test_a_cancellation_gives_the_stock_back_and_repeating_it_changes_nothing(shop: Shop, buyer: User):
    product = await shop.new_product(5)
    order = await shop.ordered(buyer, {product: 4})
    first = await shop.cancel(buyer, order["id"], "changed my mind")
    assert (first.status_code, first.json()["status"]) == (200, "cancelled")
    assert first.json()["reason"] == "changed my mind"
    second = await shop.cancel(buyer, order["id"], "again")
    assert second.json() == first.json()

    async def came_back() -> bool:
        return await shop.stock(product) == (5, 0)

    await eventually(came_back)


async def test_who_watches_an_order_sees_it_and_every_change_until_it_is_final(
    mesh: Mesh, shop: Shop, buyer: User
):
    order = await shop.ordered(buyer, {await shop.new_product(1): 1})
    path, seen = f"/v1/orders/{order['id']}:watch", []
    async with mesh.http.stream("GET", path, headers=buyer.headers, timeout=30) as stream:
        assert stream.headers["content-type"] == "text/event-stream"
        async for line in stream.aiter_lines():
            if not line.startswith("data:"):
                continue
            seen.append(json.loads(line.removeprefix("data:"))["status"])
            if len(seen) == 1:
                await shop.cancel(buyer, order["id"])
    assert seen == ["pending_payment", "cancelled"]


async def test_five_hundred_buyers_of_a_hundred_units_get_exactly_a_hundred_orders(mesh: Mesh, shop: Shop):
    product = await shop.new_product(100)
    buyers = await asyncio.gather(*(mesh.sign_up() for _ in range(5)))

    async def buy(number: int) -> httpx.Response:
        # On a connection of its own.
        key = uuid.uuid4().hex
        async with httpx.AsyncClient(base_url=mesh.edge_url, trust_env=False, verify=False) as connection:
            own, buyer = Shop(mesh, connection), buyers[number % len(buyers)]
            return await patiently(lambda: own.place(buyer, {product: 1}, key), UNFINISHED)

    answers = await asyncio.gather(*(buy(number) for number in range(500)))
    placed = [answer for answer in answers if answer.status_code == 201]
    refused = [answer for answer in answers if answer.status_code != 201]
    assert {answer.json()["status"] for answer in placed} == {"pending_payment"}
    assert {(answer.status_code, reason_of(answer)) for answer in refused} == {(400, "OUT_OF_STOCK")}
    assert (len(placed), len(refused)) == (100, 400)
    assert await shop.stock(product) == (0, 100)
