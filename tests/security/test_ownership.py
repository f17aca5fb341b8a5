"""What is somebody else's is answered as what is not there, byte for byte."""

from collections.abc import Mapping
from typing import Any

import httpx
import pytest

from tests.mesh import Mesh, User
from tests.shop import Shop, fresh_key


@pytest.fixture(scope="module")
async def anna(mesh: Mesh) -> User:
    return await mesh.sign_up()


@pytest.fixture(scope="module")
async def bert(mesh: Mesh) -> User:
    return await mesh.sign_up()


async def same_as_missing(
    mesh: Mesh, verb: str, path: str, owned: str, stranger: User, body: Mapping[str, Any] | None = None
) -> None:
    """A stranger is told of what is there exactly what they are told of what is not."""
    answers: list[httpx.Response] = [
        await mesh.http.request(verb, path.format(id=id_), json=body, headers=stranger.headers | fresh_key())
        for id_ in (owned, "0198f2a0-0000-7000-8000-000000000001")
    ]
    assert [answer.status_code for answer in answers] == [404, 404], answers[0].text
    assert answers[0].content == answers[1].content


async def test_somebody_elses_order_is_as_one_that_is_not_there(mesh: Mesh, anna: User, bert: User) -> None:
    shop = Shop(mesh)
    order = (await shop.ordered(anna, {await shop.new_product(units=2): 1}))["id"]
    await same_as_missing(mesh, "GET", "/v1/orders/{id}", order, bert)
    await same_as_missing(mesh, "GET", "/v1/orders/{id}:watch", order, bert)
    await same_as_missing(mesh, "POST", "/v1/orders/{id}:cancel", order, bert, {})
    assert (await shop.get(anna, order)).json()["status"] == "pending_payment"


async def test_somebody_elses_project_is_as_one_that_is_not_there(mesh: Mesh, anna: User, bert: User) -> None:
    body = {"name": "Attic", "description": "", "status": "active"}
    made = await mesh.http.post("/v1/projects", json=body, headers=anna.headers)
    project = made.json()["id"]
    await same_as_missing(mesh, "GET", "/v1/projects/{id}", project, bert)
    await same_as_missing(mesh, "PUT", "/v1/projects/{id}", project, bert, {"name": "Mine"})
    await same_as_missing(mesh, "DELETE", "/v1/projects/{id}", project, bert)
    await same_as_missing(mesh, "GET", "/v1/projects/{id}/members", project, bert)
    kept = await mesh.http.get(f"/v1/projects/{project}", headers=anna.headers)
    assert kept.json() == made.json()


async def test_somebody_else_is_as_nobody(mesh: Mesh, anna: User, bert: User) -> None:
    await same_as_missing(mesh, "GET", "/v1/users/{id}", anna.id, bert)
    await same_as_missing(mesh, "PUT", "/v1/users/{id}", anna.id, bert, {"first_name": "Mallory"})
