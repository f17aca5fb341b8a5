"""Registering, as a client of the edge sees it."""

import asyncio

import httpx
import pytest

from tests.mesh import Mesh
from tests.patience import patiently
from tests.service.identity.accounts import new_account, reason, register, sign_in


async def test_registration_answers_exactly_id_username_and_email(mesh: Mesh) -> None:
    account = new_account()
    answer = await mesh.http.post("/v1/users/register", json=account)
    assert answer.status_code == 201
    body = answer.json()
    assert body == {"id": body["id"], "username": account["username"], "email": account["email"]}
    assert body["id"][14] == "7"  # UUIDv7


async def test_an_email_address_is_the_same_in_any_case(mesh: Mesh) -> None:
    account = await register(mesh.http)
    again = new_account(email=account["email"].upper())
    answer = await mesh.http.post("/v1/users/register", json=again)
    assert (answer.status_code, reason(answer)) == (409, "EMAIL_TAKEN")
    assert await sign_in(mesh.http, {**account, "email": account["email"].upper()})


async def test_a_username_is_the_same_in_any_case(mesh: Mesh) -> None:
    account = await register(mesh.http)
    again = new_account(username=account["username"].upper())
    answer = await mesh.http.post("/v1/users/register", json=again)
    assert (answer.status_code, reason(answer)) == (409, "USERNAME_TAKEN")


async def test_of_twenty_registrations_of_one_address_at_once_one_succeeds(mesh: Mesh) -> None:
    email = new_account()["email"]

    async def attempt() -> httpx.Response:
        account = new_account(email=email)
        return await patiently(lambda: mesh.http.post("/v1/users/register", json=account))

    answers = await asyncio.gather(*(attempt() for _ in range(20)))
    assert sorted(answer.status_code for answer in answers) == [201] + [409] * 19
    assert {reason(answer) for answer in answers if answer.status_code == 409} == {"EMAIL_TAKEN"}


@pytest.mark.parametrize(
    "fields",
    [
        {"email": "not an address"},
        {"email": ""},
        {"email": "a" * 250 + "@example.org"},
        {"email": "nul\x00@example.org"},
        {"username": "ab"},
        {"username": "x" * 65},
        {"username": "<script>"},
        {"username": "naïve"},
        {"username": "'; DROP TABLE users; --"},
        {"password": "short"},
        {"password": "x" * 129},
    ],
    ids=str,
)
async def test_a_registration_that_breaks_the_contract_is_refused(mesh: Mesh, fields: dict[str, str]) -> None:
    answer = await mesh.http.post("/v1/users/register", json=new_account(**fields))
    assert (answer.status_code, reason(answer)) == (400, "VALIDATION_FAILED")


async def test_a_huge_registration_is_refused_at_once(mesh: Mesh) -> None:
    answer = await mesh.http.post("/v1/users/register", json=new_account(password="x" * 100_000))
    assert answer.status_code in {400, 413}
    assert reason(answer) == "REQUEST_TOO_LARGE"


async def test_a_role_cannot_be_chosen_at_registration(mesh: Mesh) -> None:
    answer = await mesh.http.post("/v1/users/register", json=new_account(role="admin"))
    if answer.status_code == 201:
        tokens = await sign_in(mesh.http, new_account(email=answer.json()["email"]))
        headers = {"authorization": f"Bearer {tokens['access_token']}"}
        assert (await mesh.http.get("/v1/users/me", headers=headers)).json()["role"] == "customer"
    else:
        assert answer.status_code == 400


async def test_a_password_may_hold_any_character(mesh: Mesh) -> None:
    account = await register(mesh.http, password="пароль 🔑 \u0001 密码")
    assert await sign_in(mesh.http, account)


async def test_a_nul_is_refused_by_the_name_of_its_field(mesh: Mesh) -> None:
    body = {"email": "nobody@example.com", "password": "a\u0000b"}
    answer = await mesh.http.post("/v1/users/login", json=body)
    assert (answer.status_code, answer.json()["details"][0]["reason"]) == (400, "VALIDATION_FAILED")
    assert answer.json()["details"][1]["field_violations"][0]["field"] == "password"
