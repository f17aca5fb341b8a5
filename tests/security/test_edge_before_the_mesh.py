"""The edge before the real services: what both refuse together, and the one trace that they leave."""

import base64
import hashlib
import hmac
import json
import time
from typing import Any

import httpx
import pytest
from joserfc.jwk import ECKey

from tests.mesh import Mesh, User
from tests.patience import eventually

ID = "0198f2a0-0000-7000-8000-000000000001"


@pytest.fixture(scope="module")
async def anna(mesh: Mesh) -> User:
    return await mesh.sign_up()


def reason(response: httpx.Response) -> str:
    """The reason of an error, which must have the one envelope."""
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert set(body) == {"code", "message", "details"}
    info = body["details"][0]
    assert (info["@type"], info["domain"]) == ("type.googleapis.com/google.rpc.ErrorInfo", "protomesh")
    return str(info["reason"])


def encoded(value: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


@pytest.mark.parametrize(
    "path",
    [
        "/v1/orders/not-a-uuid",
        "/v1/projects/1",
        "/v1/users/%00",
        "/v1/orders/' OR 1=1--",
        f"/v1/orders/{ID}x",
    ],
)
async def test_an_invalid_id_is_refused(mesh: Mesh, anna: User, path: str) -> None:
    response = await mesh.http.get(path, headers=anna.headers)
    assert response.status_code == 400
    assert reason(response) in ("VALIDATION_FAILED", "REQUEST_MALFORMED")


async def test_another_users_order_looks_like_none(mesh: Mesh, anna: User) -> None:
    response = await mesh.http.get(f"/v1/orders/{ID}", headers=anna.headers)
    assert (response.status_code, reason(response)) == (404, "ORDER_NOT_FOUND")


async def test_a_customer_is_refused_where_staff_is_wanted(mesh: Mesh, anna: User) -> None:
    response = await mesh.http.get("/v1/observer/traces", headers=anna.headers)
    assert (response.status_code, reason(response)) == (403, "PERMISSION_MISSING")


async def test_headers_that_name_a_user_change_nothing(mesh: Mesh, anna: User) -> None:
    spoofed = {"x-user-id": ID, "x-user-role": "admin", "x-internal-workload": "ordering"}
    response = await mesh.http.get("/v1/users/me", headers={**anna.headers, **spoofed})
    assert response.json()["id"] == anna.id
    assert reason(await mesh.http.get("/v1/users/me", headers=spoofed)) == "TOKEN_MISSING"


async def test_the_real_public_keys_forge_nothing(mesh: Mesh, anna: User) -> None:
    key = (await mesh.http.get("/.well-known/jwks.json")).json()["keys"][0]
    claims = {
        "iss": "protomesh",
        "aud": "protomesh",
        "sub": anna.id,
        "role": "admin",
        "exp": int(time.time()) + 600,
    }
    unsigned = f"{encoded({'alg': 'none', 'typ': 'at+jwt'})}.{encoded(claims)}."
    signed = f"{encoded({'alg': 'HS256', 'typ': 'at+jwt', 'kid': key['kid']})}.{encoded(claims)}"
    secret = ECKey.import_key(key).as_pem(private=False)
    mac = hmac.new(secret, signed.encode(), hashlib.sha256).digest()
    with_public_key = f"{signed}.{base64.urlsafe_b64encode(mac).decode().rstrip('=')}"
    for forged in (unsigned, with_public_key, anna.token[:-8] + "AAAAAAAA"):
        response = await mesh.http.get("/v1/users/me", headers={"authorization": f"Bearer {forged}"})
        assert (response.status_code, reason(response)) == (401, "TOKEN_INVALID")


async def test_one_trace_leads_from_the_edge_to_the_statement(mesh: Mesh, anna: User) -> None:
    body = {"name": "Attic", "description": "", "status": "active"}
    created = await mesh.http.post("/v1/projects", json=body, headers=anna.headers)
    assert created.status_code == 201
    staff = {"authorization": f"Bearer {await mesh.staff_token()}"}
    wanted = {"edge", "projects"}

    async def complete() -> list[dict[str, Any]]:
        path = f"/v1/observer/traces/{created.headers['trace-id']}"
        found: list[dict[str, Any]] = (await mesh.http.get(path, headers=staff)).json().get("spans", [])
        return found if wanted <= {span["service"] for span in found} else []

    spans = await eventually(complete, within=30)
    by_id = {span["span_id"]: span for span in spans}
    (root,) = (span for span in spans if span["parent_span_id"] not in by_id)
    assert (root["service"], root["name"]) == ("edge", "POST /v1/projects")
    assert any(span["name"].startswith("SQL") for span in spans)
