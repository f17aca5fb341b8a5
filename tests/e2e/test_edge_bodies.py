"""What the edge takes as a JSON body: the fields of its message, and nothing else."""

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from protomesh.ordering.v1 import order_service_pb2

from chassis.contract import MethodContract, platform
from tests.edge_stand import EdgeStand

ID = "0198f2a0-0000-7000-8000-000000000001"
LINE = {"product_id": ID, "quantity": 2}


async def place(stand: EdgeStand, body: Any) -> httpx.Response:
    """Places an order with this body: JSON, or text as it is."""
    content = body if isinstance(body, str) else json.dumps(body)
    headers = {**stand.bearer(), "content-type": "application/json", "idempotency-key": "0123456789abcdef"}
    return await stand.http.post("/v1/orders", content=content, headers=headers)


@pytest.mark.parametrize(
    ("body", "name"),
    [
        ({"lines": [LINE], "coupon": "10OFF"}, "coupon"),
        ({"lines": [LINE, {**LINE, "price": 1}]}, "price"),
        ({"lines": [{**LINE, "extra": {"a": ["}", {}]}}]}, "extra"),
        ({"Lines": []}, "Lines"),
        ({"": 1}, ""),
        ({"a\\u006c": 1, "x" * 200: 2}, "a"),
        ({"user_id": ID}, "user_id"),
    ],
)
async def test_a_field_that_the_message_does_not_have_is_refused_by_name(
    stand: EdgeStand, body: Any, name: str
) -> None:
    response = await place(stand, body)
    assert response.status_code == 400
    assert response.json()["code"] == 3
    assert response.json()["details"][0]["reason"] == "REQUEST_MALFORMED"
    assert response.json()["message"].startswith(f"The request cannot be read: there is no field {name}")
    assert stand.upstream.received == []


@pytest.mark.parametrize(
    "body",
    [
        {"lines": [LINE], "shipping_note": 'Ring "twice" \\ or {not}, [ok]: yes'},
        {"lines": [{"productId": ID, "quantity": 2}], "shippingNote": "x"},
        {"lines": []},
        {"lines": None},
        {},
        '  {\n\t"lines" : [ { "product_id":"' + ID + '" , "quantity":2e0 } ]\r\n}  ',
    ],
)
async def test_the_fields_of_the_message_reach_the_service(stand: EdgeStand, body: Any) -> None:
    response = await place(stand, body)
    assert response.status_code == 201, response.text
    assert isinstance(stand.upstream.received[-1].request, order_service_pb2.PlaceOrderRequest)


async def test_a_list_in_a_list_hides_nothing(stand: EdgeStand) -> None:
    response = await place(stand, {"lines": [[{**LINE, "bogus": 1}]]})
    assert response.status_code == 400
    assert response.json()["message"] == "The request cannot be read: there is a list in a list"


@pytest.mark.parametrize("text", ["\\", "\\\\", '"', '\\"', '"\\', '\\\\"}', '","bogus":1,"', "é\u2028🎈"])
async def test_a_string_ends_where_json_says(stand: EdgeStand, text: str) -> None:
    assert (await place(stand, {"shipping_note": text, "lines": []})).status_code == 201
    assert stand.upstream.received[-1].request.shipping_note == text
    refused = await place(stand, {"shipping_note": text, "bogus": 1})
    assert refused.json()["message"].endswith("there is no field bogus")


async def test_a_body_that_comes_in_pieces_is_looked_through(stand: EdgeStand) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for piece in (b'{"lin', b'es": [], "bog', b'us": 1}'):
            yield piece

    headers = stand.bearer() | {"idempotency-key": "0123456789abcdef"}
    response = await stand.http.post("/v1/orders", content=pieces(), headers=headers)
    assert response.json()["message"].endswith("there is no field bogus")


async def test_an_empty_body_is_an_empty_message(stand: EdgeStand) -> None:
    assert (await place(stand, "")).status_code == 201


@pytest.mark.parametrize(
    "body",
    [
        "{",
        "[",
        '{"lines": [}',
        '{"lines": [] "x": 1}',
        '{"lines": []}{"x": 1}',
        "{lines: []}",
        "{'lines': []}",
        '{"lines',
        '{"lines": ',
        '{"lines": [{]}',
        "[" * 100_000,
        '{"lines": ' + "[" * 100_000,
        '{"shipping_note": ' + '{"a":' * 50_000,
        "\x00",
    ],
)
async def test_what_is_not_json_is_refused(stand: EdgeStand, body: str) -> None:
    response = await place(stand, body)
    assert response.status_code == 400
    assert response.json()["details"][0]["reason"] == "REQUEST_MALFORMED"
    assert stand.upstream.received == []


async def test_a_large_body_is_looked_through_to_its_end(stand: EdgeStand) -> None:
    row = {"sku": "A-1", "name": "A thing", "price": {"currency_code": "GBP", "amount_minor": "5"}}
    rows = [row] * 400
    path = "/v1/products:batchImport"
    taken = await stand.http.post(path, json={"rows": rows}, headers=stand.bearer())
    assert taken.status_code == 200
    refused = await stand.http.post(
        path, json={"rows": [*rows, {**row, "price": {"amount": 5}}]}, headers=stand.bearer()
    )
    assert refused.json()["message"] == "The request cannot be read: there is no field amount"


@pytest.mark.parametrize(
    "method",
    [
        method
        for method in platform()
        if any(binding.body for binding in method.http) and not method.client_streaming
    ],
    ids=lambda method: method.full_name,
)
async def test_no_rpc_takes_a_field_that_it_does_not_know(stand: EdgeStand, method: MethodContract) -> None:
    for binding in method.http:
        path = binding.path.replace("{id}", ID).replace("{product_id}", ID).replace("{project_id}", ID)
        response = await stand.http.request(
            binding.verb, path.replace("{user_id}", ID), json={"bogus": 1}, headers=stand.bearer()
        )
        assert response.status_code == 400
        assert "bogus" in response.json()["message"]


@pytest.mark.parametrize("escape", ["\\ud800", "\\udc00", "\\ud800\\ud800", "a\\udfffb"])
async def test_a_lone_surrogate_never_reaches_a_service_as_text(stand: EdgeStand, escape: str) -> None:
    response = await place(stand, f'{{"shipping_note": "{escape}"}}')
    assert (response.status_code, response.json()["code"]) == (400, 3), response.text
    assert stand.upstream.received == []


async def test_a_pair_of_surrogates_is_one_character(stand: EdgeStand) -> None:
    await place(stand, '{"shipping_note": "\\ud83d\\ude00"}')
    assert stand.upstream.received[-1].request.shipping_note == "😀"
