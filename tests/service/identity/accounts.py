"""What tests of identity do again and again: register, sign in, read the reason of a refusal."""

import base64
import json
import secrets
from typing import Any

import httpx

PASSWORD = "correct horse battery"


def new_account(**fields: str) -> dict[str, str]:
    """A registration that nobody made before."""
    name = f"u{secrets.token_hex(8)}"
    return {"username": name, "email": f"{name}@example.org", "password": PASSWORD, **fields}


async def register(http: httpx.AsyncClient, **fields: str) -> dict[str, str]:
    """Registers a customer; the registration with the `id` that it got."""
    account = new_account(**fields)
    answer = await http.post("/v1/users/register", json=account)
    assert answer.status_code == 201, answer.text
    return {**account, "id": answer.json()["id"]}


async def sign_in(http: httpx.AsyncClient, account: dict[str, str]) -> dict[str, Any]:
    """Signs in; the tokens of a new session."""
    body = {"email": account["email"], "password": account["password"]}
    answer = await http.post("/v1/users/login", json=body)
    assert answer.status_code == 200, answer.text
    tokens: dict[str, Any] = answer.json()
    return tokens


async def signed_in(http: httpx.AsyncClient, **fields: str) -> tuple[dict[str, str], dict[str, str]]:
    """A new customer, and the headers of their calls."""
    account = await register(http, **fields)
    return account, bearer((await sign_in(http, account))["access_token"])


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def reason(answer: httpx.Response) -> str:
    """The reason in the one envelope of errors."""
    details = answer.json()["details"]
    found: str = next(detail["reason"] for detail in details if "reason" in detail)
    return found


def part_of(token: str, index: int) -> dict[str, Any]:
    """A JWT's header (0) or claims (1), unverified."""
    text = token.split(".")[index]
    decoded: dict[str, Any] = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    return decoded
