"""What a client read is what it may send back: one etag for every resource that can be changed, in every service."""

import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest

from tests.mesh import Mesh, User
from tests.shop import Shop

Headers = dict[str, str]


@dataclass(frozen=True)
class Resource:
    """Where a resource is read and changed, by whom, and two changes of it."""

    path: str
    headers: Headers
    field: str


async def staff(mesh: Mesh) -> Headers:
    return {"authorization": f"Bearer {await mesh.staff_token()}"}


async def product(mesh: Mesh, shop: Shop, anna: User) -> Resource:
    return Resource(f"/v1/products/{await shop.new_product(5)}", await staff(mesh), "name")


async def category(mesh: Mesh, shop: Shop, anna: User) -> Resource:
    headers, body = await staff(mesh), {"slug": secrets.token_hex(6), "name": "Candles"}
    made = await mesh.http.post("/v1/categories", json=body, headers=headers)
    return Resource(f"/v1/categories/{made.json()['id']}", headers, "name")


async def project(mesh: Mesh, shop: Shop, anna: User) -> Resource:
    made = await mesh.http.post("/v1/projects", json={"name": "Attic"}, headers=anna.headers)
    assert made.headers["etag"] == f'"{made.json()["etag"]}"'
    return Resource(f"/v1/projects/{made.json()['id']}", anna.headers, "name")


async def user(mesh: Mesh, shop: Shop, anna: User) -> Resource:
    return Resource(f"/v1/users/{anna.id}", anna.headers, "first_name")


Make = Callable[[Mesh, Shop, User], Awaitable[Resource]]
each_resource = pytest.mark.parametrize("make", [product, category, project, user])


def reason(answer: Any) -> str:
    return str(answer.json()["details"][0]["reason"])


@each_resource
async def test_the_etag_that_a_get_answers_may_be_sent_back_in_either_place(
    mesh: Mesh, shop: Shop, anna: User, make: Make
) -> None:
    resource = await make(mesh, shop, anna)
    path, headers, http = resource.path, resource.headers, mesh.http
    read = await http.get(path, headers=headers)
    assert read.headers["etag"] == f'"{read.json()["etag"]}"'

    match = headers | {"if-match": read.headers["etag"]}
    first = await http.put(path, json={resource.field: "First"}, headers=match)
    assert first.status_code == 200, first.text
    assert first.headers["etag"] == f'"{first.json()["etag"]}"' != read.headers["etag"]
    late = await http.put(path, json={resource.field: "Late"}, headers=match)
    assert (late.status_code, reason(late)) == (409, "ETAG_MISMATCH")

    body = {resource.field: "Second", "etag": first.json()["etag"]}
    second = await http.put(path, json=body, headers=headers)
    assert second.status_code == 200, second.text
    late = await http.put(path, json=body | {resource.field: "Late"}, headers=headers)
    assert (late.status_code, reason(late)) == (409, "ETAG_MISMATCH")
    assert (await http.get(path, headers=headers)).json()[resource.field] == "Second"


@each_resource
async def test_what_is_held_already_is_not_sent_again(mesh: Mesh, shop: Shop, anna: User, make: Make) -> None:
    resource = await make(mesh, shop, anna)
    read = await mesh.http.get(resource.path, headers=resource.headers)
    held = resource.headers | {"if-none-match": read.headers["etag"]}
    again = await mesh.http.get(resource.path, headers=held)
    assert (again.status_code, again.content) == (304, b"")
    changed = await mesh.http.put(resource.path, json={resource.field: "New"}, headers=resource.headers)
    assert changed.status_code == 200, changed.text
    assert (await mesh.http.get(resource.path, headers=held)).status_code == 200


@pytest.mark.parametrize("make", [category, project])
async def test_a_deletion_of_what_was_changed_since_is_refused(
    mesh: Mesh, shop: Shop, anna: User, make: Make
) -> None:
    resource = await make(mesh, shop, anna)
    old = (await mesh.http.get(resource.path, headers=resource.headers)).json()["etag"]
    changed = await mesh.http.put(resource.path, json={resource.field: "New"}, headers=resource.headers)
    for query, match in ((f"?etag={old}", {}), ("", {"if-match": f'"{old}"'})):
        refused = await mesh.http.delete(resource.path + query, headers=resource.headers | match)
        assert (refused.status_code, reason(refused)) == (409, "ETAG_MISMATCH")
    gone = await mesh.http.delete(f"{resource.path}?etag={changed.json()['etag']}", headers=resource.headers)
    assert gone.status_code == 200


async def test_stock_that_moves_makes_a_cached_product_stale_and_hinders_no_change(
    mesh: Mesh, shop: Shop
) -> None:
    product_id, headers = await shop.new_product(5), await staff(mesh)
    path = f"/v1/products/{product_id}"
    read = await mesh.http.get(path)
    await shop.receive(product_id, 3)
    fresh = await mesh.http.get(path, headers={"if-none-match": read.headers["etag"]})
    assert (fresh.status_code, fresh.json()["available"]) == (200, 8)
    match = headers | {"if-match": read.headers["etag"]}
    assert (await mesh.http.put(path, json={"name": "Renamed"}, headers=match)).status_code == 200


async def test_an_order_shows_its_etag(mesh: Mesh, shop: Shop, anna: User) -> None:
    order = await shop.ordered(anna, {await shop.new_product(5): 1})
    read = await shop.get(anna, order["id"])
    assert read.headers["etag"] == f'"{read.json()["etag"]}"'
