"""Products: finding them, and keeping them."""

import asyncio
from typing import Any

import grpc
import httpx
import pytest
from protomesh.catalog.v1.catalog_events_pb2 import ProductArchived, ProductCreated, ProductUpdated
from protomesh.catalog.v1.product_pb2 import Product
from protomesh.catalog.v1.product_service_pb2 import (
    ArchiveProductRequest,
    GetAnyProductRequest,
    GetProductRequest,
    ListAllProductsRequest,
    ListProductsRequest,
    ListProductsResponse,
    UpdateProductRequest,
)

from tests.service.catalog.conftest import Catalog, new_id, refusal, told, word


async def _list(catalog: Catalog, **fields: Any) -> ListProductsResponse:
    return await catalog.products.ListProducts(ListProductsRequest(**fields))


async def _all(catalog: Catalog, **fields: Any) -> list[str]:
    request = ListAllProductsRequest(**fields)
    page = await catalog.products.ListAllProducts(request, metadata=catalog.staff)
    return [product.id for product in page.data]


async def _names(catalog: Catalog, **fields: Any) -> list[str]:
    return [product.name for product in (await _list(catalog, **fields)).data]


async def _update(catalog: Catalog, product: Product, **fields: Any) -> Product:
    return await catalog.products.UpdateProduct(
        UpdateProductRequest(id=product.id, **fields), metadata=catalog.staff
    )


async def _archive(catalog: Catalog, product: Product) -> Product:
    return await catalog.products.ArchiveProduct(ArchiveProductRequest(id=product.id), metadata=catalog.staff)


async def test_a_product_is_created_and_read_over_rest(catalog: Catalog):
    http: httpx.AsyncClient = catalog.mesh.http
    sku = word()
    body = {
        "sku": f" {sku} x ",
        "name": "White hanging heart",
        "price": {"currency_code": "GBP", "amount_minor": 295},
        "initial_stock": 7,
    }
    created = await http.post("/v1/products", json=body, headers=dict(catalog.staff))
    assert created.status_code == 201, created.text
    product = (await http.get(f"/v1/products/{created.json()['id']}")).json()
    assert product == created.json()
    assert product["sku"] == f"{sku} x".upper()
    assert (product["status"], product["available"], product["in_stock"]) == ("active", 7, True)


async def test_a_sku_is_one_product_in_any_case_of_letters(catalog: Catalog):
    sku = word()
    await catalog.new_product(sku=sku.lower())
    refused = await refusal(catalog.new_product(sku=f"  {sku.upper()}"))
    assert (refused.code, refused.reason) == (grpc.StatusCode.ALREADY_EXISTS, "SKU_TAKEN")
    assert refused.metadata == {"sku": sku.upper()}


async def test_an_update_changes_only_what_is_sent(catalog: Catalog):
    product = await catalog.new_product(description="Long", image_urls=["https://example.com/a.jpg"])
    changed = await _update(catalog, product, name="Other", description="")
    assert (changed.name, changed.description) == ("Other", "")
    for kept in ("sku", "price", "status", "image_urls", "category_id", "created_at"):
        assert getattr(changed, kept) == getattr(product, kept)
    same = await _update(catalog, changed, name="Other")
    assert same.etag == changed.etag != product.etag


async def test_of_many_changes_of_one_version_exactly_one_is_made(catalog: Catalog):
    product = await catalog.new_product()
    changes = [_update(catalog, product, name=f"Name {n}", etag=product.etag) for n in range(10)]
    outcomes = await asyncio.gather(*changes, return_exceptions=True)
    failed = [outcome for outcome in outcomes if isinstance(outcome, grpc.aio.AioRpcError)]
    assert len(failed) == 9
    assert {error.code() for error in failed} == {grpc.StatusCode.ABORTED}


async def test_what_is_not_for_sale_is_seen_by_staff_alone(catalog: Catalog):
    draft = await catalog.new_product(status=Product.draft)
    archived = await _archive(catalog, await catalog.new_product())
    for product in (draft, archived):
        reading = catalog.products.GetProduct(GetProductRequest(id=product.id), metadata=catalog.staff)
        assert (await refusal(reading)).reason == "PRODUCT_NOT_FOUND"
        any_product = GetAnyProductRequest(id=product.id)
        assert (
            await catalog.products.GetAnyProduct(any_product, metadata=catalog.staff)
        ).status == product.status
        assert (await refusal(catalog.products.GetAnyProduct(any_product))).reason == "TOKEN_MISSING"
        for status in (Product.status_unspecified, product.status):
            assert not (await _list(catalog, sku=product.sku, status=status)).data
            assert await _all(catalog, sku=product.sku, status=status) == [product.id]


async def test_an_archived_product_is_not_sold(catalog: Catalog):
    product = await catalog.new_product(units=5)
    assert (await _archive(catalog, product)).status == Product.archived
    assert (await _archive(catalog, product)).status == Product.archived
    refused = await refusal(catalog.reserve(new_id(), (product.id, 1)))
    assert (refused.reason, refused.metadata) == ("PRODUCT_NOT_FOR_SALE", {"product_id": product.id})
    await _update(catalog, product, status=Product.active)
    await catalog.reserve(new_id(), (product.id, 1))


async def test_a_category_lists_what_hangs_below_it(catalog: Catalog):
    top = await catalog.new_category()
    leaf = await catalog.new_category(await catalog.new_category(top))
    beside = await catalog.new_category(slug=f"{top.slug}-2")
    for name, category in (("top", top), ("leaf", leaf), ("beside", beside)):
        await catalog.new_product(name=name, category_id=category.id)
    assert await _names(catalog, category_id=top.id) == ["leaf", "top"]
    assert await _names(catalog, category_id=leaf.id) == ["leaf"]


async def test_filters_narrow_and_sorts_order(catalog: Catalog):
    category = await catalog.new_category()
    for price in (300, 100, 200):
        await catalog.new_product(name=str(price), price_minor=price, category_id=category.id)
    of = {"category_id": category.id}
    assert await _names(catalog, **of, min_price_minor=150, max_price_minor=300) == ["200", "300"]
    assert await _names(catalog, **of, sort=ListProductsRequest.price_ascending) == ["100", "200", "300"]
    assert await _names(catalog, **of, sort=ListProductsRequest.price_descending) == ["300", "200", "100"]
    assert await _names(catalog, **of, sort=ListProductsRequest.newest) == ["200", "100", "300"]


async def test_prices_are_sorted_within_each_currency(catalog: Catalog):
    category = await catalog.new_category()
    for currency, price in (("JPY", 90), ("GBP", 200), ("JPY", 500), ("GBP", 100)):
        name = f"{currency} {price}"
        await catalog.new_product(name=name, price_minor=price, currency=currency, category_id=category.id)
    of = {"category_id": category.id}
    ascending = ["GBP 100", "GBP 200", "JPY 90", "JPY 500"]
    assert await _names(catalog, **of, sort=ListProductsRequest.price_ascending) == ascending
    assert await _names(catalog, **of, sort=ListProductsRequest.price_descending) == ascending[::-1]
    yen = of | {"currency_code": "JPY"}
    assert await _names(catalog, **yen, sort=ListProductsRequest.price_ascending) == ["JPY 90", "JPY 500"]
    assert await _names(catalog, **yen, min_price_minor=100) == ["JPY 500"]
    assert (await refusal(_list(catalog, currency_code="yen"))).reason == "VALIDATION_FAILED"


async def test_a_search_finds_words_their_forms_beginnings_and_skus(catalog: Catalog):
    mark = word()
    hearts = await catalog.new_product(name=f"White hanging hearts {mark}")
    plate = await catalog.new_product(name=f"Plate {mark}", description="With a heart on it")
    for search, expected in {
        f"{mark} heart": [hearts.name, plate.name],
        f"{mark} hea": [hearts.name, plate.name],
        f'{mark} "hanging heart"': [hearts.name],
        f"{mark} -plate": [hearts.name],
        f"{mark} white or {mark} plate": {hearts.name, plate.name},
        hearts.sku.lower(): [hearts.name],
        f"{mark} nothing": [],
    }.items():
        found = await _names(catalog, search=search)
        assert (set(found) if isinstance(expected, set) else found) == expected, search


async def test_a_search_finds_what_contains_the_words_however_short_or_common(catalog: Catalog):
    mark = word()
    names = ["The S", "It takes two", "Hanging heart", "T-light holder"]
    for name in names:
        await catalog.new_product(name=name, sku=f"{mark}-{name[:3]}", description=f"{mark} standing")
    for search, expected in {
        "the": "The S",
        "s": "The S",
        "it": "It takes two",
        "hangin": "Hanging heart",
        "t": "T-light holder",
        "light": "T-light holder",
        '"the s"': "The S",
    }.items():
        found = await _names(catalog, search=f"{mark} {search}")
        assert found[0] == expected, (search, found)
    assert set(await _names(catalog, search=f"{mark} standin")) == set(names)
    assert "It takes two" not in await _names(catalog, search=f"{mark} -it")


async def test_a_part_of_a_sku_finds_its_product(catalog: Catalog):
    mark = word()
    product = await catalog.new_product(sku=f"AB-{mark}/000123")
    for search in (f"{mark}", f"ab-{mark}", f"{mark} 0001", f"{mark} 000123", product.sku.lower()):
        assert await _names(catalog, search=search) == [product.name], search


async def test_a_name_with_the_words_comes_before_a_name_that_begins_so_and_a_description(catalog: Catalog):
    mark = word()
    await catalog.new_product(name="Pen", sku=f"{mark}1")
    await catalog.new_product(name="Pendant", sku=f"{mark}2")
    await catalog.new_product(name="Ink", sku=f"{mark}3", description="For a pen")
    await catalog.new_product(name="Older pens", sku=f"{mark}4")
    found = await _names(catalog, search="pen", limit=100)
    ours = [name for name in found if name in {"Pen", "Pendant", "Ink", "Older pens"}]
    assert ours[:2] == ["Older pens", "Pen"]
    assert [name for name in ours if name in {"Pen", "Pendant", "Ink"}] == ["Pen", "Pendant", "Ink"]


@pytest.mark.parametrize(
    "search",
    [
        "'",
        '"',
        "a & | !",
        "a:*",
        "\\",
        "();drop table products",
        "%_",
        "-",
        "or",
        "🎈",
        "the",
        "a" * 200,
        "&&&:*",
        "<->",
    ],
)
async def test_whatever_is_searched_for_is_no_error(catalog: Catalog, search: str):
    await _list(catalog, search=search, limit=1)


async def test_pages_by_cursor_neither_skip_nor_repeat_while_products_come_in(catalog: Catalog):
    mark = word()
    category = await catalog.new_category()
    made = [(await catalog.new_product(name=f"{mark} {n}", category_id=category.id)).id for n in range(7)]
    for filters in ({"category_id": category.id}, {"search": mark}):
        seen, cursor = [], ""
        while True:
            page = await _list(catalog, **filters, limit=2, cursor=cursor)
            seen += [product.id for product in page.data]
            await catalog.new_product(name=f"{mark} late", category_id=category.id)
            if not (cursor := page.meta.next_cursor):
                break
        assert [product_id for product_id in seen if product_id in made] == made[::-1]
        assert len(seen) == len(set(seen))


async def test_a_cursor_is_good_for_its_own_list_alone(catalog: Catalog):
    category = await catalog.new_category()
    for _ in range(2):
        await catalog.new_product(category_id=category.id)
    cursor = (await _list(catalog, category_id=category.id, limit=1)).meta.next_cursor
    for wrong in ({"cursor": cursor}, {"cursor": cursor[:-2] + "AA", "category_id": category.id}):
        assert (await refusal(_list(catalog, limit=1, **wrong))).reason == "CURSOR_INVALID"


async def test_each_change_is_published_once_and_in_order(catalog: Catalog):
    product = await catalog.new_product()
    await _update(catalog, product, name="Other")
    await _update(catalog, product, name="Other")
    await _archive(catalog, product)
    archived = await catalog.products.GetAnyProduct(
        GetAnyProductRequest(id=product.id), metadata=catalog.staff
    )
    events = await catalog.published(product.id)
    assert [(type(event), version) for event, version in events] == [
        (ProductCreated, 1),
        (ProductUpdated, 2),
        (ProductArchived, 3),
    ]
    last = events[-1][0]
    assert isinstance(last, ProductArchived)
    assert last.product == told(archived)


@pytest.mark.parametrize(
    "fields",
    [
        {"sku": ""},
        {"sku": "a\nb"},
        {"sku": "x" * 41},
        {"name": "   "},
        {"name": "\u00a0"},
        {"name": "\u2003\u3000\x85"},
        {"name": "a\x00b"},
        {"price_minor": 0},
        {"price_minor": -1},
        {"price_minor": 100_000_001},
        {"currency": "gbp"},
        {"image_urls": ["http://example.com/a.jpg"]},
        {"image_urls": ["javascript:alert(1)"]},
        {"status": Product.archived},
        {"units": -1},
        {"category_id": "1"},
    ],
)
async def test_a_product_that_breaks_the_contract_is_refused(catalog: Catalog, fields: dict[str, Any]):
    refused = await refusal(catalog.new_product(**fields))
    assert (refused.code, refused.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "VALIDATION_FAILED")
