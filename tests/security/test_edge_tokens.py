"""The edge lets nobody in with a token that identity did not sign for this platform."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from joserfc.jwk import ECKey, OKPKey

from tests.edge_stand import EdgeStand

ID = "0198f2a0-0000-7000-8000-000000000001"
Forgery = Callable[[EdgeStand], str]


def encoded(value: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


def claims() -> dict[str, Any]:
    return {"iss": "protomesh", "aud": "protomesh", "sub": "mallory", "exp": int(time.time()) + 600}


def unsigned(stand: EdgeStand) -> str:
    return f"{encoded({'alg': 'none', 'typ': 'at+jwt'})}.{encoded(claims())}."


def signed_with_the_public_key_as_secret(stand: EdgeStand) -> str:
    header = {"alg": "HS256", "typ": "at+jwt", "kid": stand.upstream.key.kid}
    signed = f"{encoded(header)}.{encoded(claims())}"
    secret = stand.upstream.key.as_pem(private=False)
    signature = hmac.new(secret, signed.encode(), hashlib.sha256).digest()
    return f"{signed}.{base64.urlsafe_b64encode(signature).decode().rstrip('=')}"


def signed_by_a_stranger(stand: EdgeStand) -> str:
    return stand.token(key=ECKey.generate_key("P-256"))


def signed_by_a_key_in_its_own_header(stand: EdgeStand) -> str:
    stranger = ECKey.generate_key("P-256")
    return stand.token(key=stranger, header={"jwk": stranger.as_dict(private=False)})


def signed_by_a_key_that_it_points_to(stand: EdgeStand) -> str:
    return stand.token(key=ECKey.generate_key("P-256"), header={"jku": "https://evil.example/jwks.json"})


def signed_with_another_algorithm(stand: EdgeStand) -> str:
    return stand.token(key=OKPKey.generate_key("Ed25519"), algorithm="Ed25519")


def changed_after_signing(stand: EdgeStand) -> str:
    header, _, signature = stand.token().split(".")
    return f"{header}.{encoded({**claims(), 'role': 'admin'})}.{signature}"


FORGERIES: list[Forgery] = [
    unsigned,
    signed_with_the_public_key_as_secret,
    signed_by_a_stranger,
    signed_by_a_key_in_its_own_header,
    signed_by_a_key_that_it_points_to,
    signed_with_another_algorithm,
    changed_after_signing,
    lambda stand: stand.token(exp=int(time.time()) - 10),
    lambda stand: stand.token(exp=None),
    lambda stand: stand.token(aud="another platform"),
    lambda stand: stand.token(aud=None),
    lambda stand: stand.token(iss="another issuer"),
    lambda stand: stand.token(iss=None),
    lambda stand: stand.token(nbf=int(time.time()) + 600),
    lambda _: "not.a.token",
]


@pytest.mark.parametrize("forgery", FORGERIES)
async def test_a_forged_token_is_refused(stand: EdgeStand, forgery: Forgery) -> None:
    response = await stand.http.get("/v1/orders", headers={"authorization": f"Bearer {forgery(stand)}"})
    assert response.status_code == 401
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert body["code"] == 16
    assert body["details"][0]["reason"] in ("TOKEN_INVALID", "TOKEN_MISSING")
    assert stand.upstream.received == []


async def test_no_token_is_refused(stand: EdgeStand) -> None:
    response = await stand.http.get("/v1/orders")
    assert response.status_code == 401
    assert response.headers["www-authenticate"].startswith("Bearer")
    assert response.json()["details"][0]["reason"] == "TOKEN_MISSING"


@pytest.mark.parametrize("query", ["access_token={}", "token={}"])
async def test_a_token_in_the_query_counts_for_nothing(stand: EdgeStand, query: str) -> None:
    response = await stand.http.get("/v1/orders?" + query.format(stand.token()))
    assert response.status_code == 401


async def test_a_good_token_passes_on_to_the_service(stand: EdgeStand) -> None:
    bearer = stand.bearer()
    assert (await stand.http.get("/v1/orders", headers=bearer)).status_code == 200
    assert stand.upstream.received[-1].metadata["authorization"] == bearer["authorization"]


async def test_a_public_rpc_neither_needs_nor_sees_a_token(stand: EdgeStand) -> None:
    stale = {"authorization": f"Bearer {stand.token(exp=1)}"}
    response = await stand.http.get("/v1/products", headers=stale)
    assert response.status_code == 200
    assert "authorization" not in stand.upstream.received[-1].metadata


@pytest.mark.parametrize(
    "header",
    [
        "x-user-id",
        "x-user-role",
        "x-internal-token",
        "x-envoy-decorator-operation",
        "x-envoy-upstream-rq-timeout-ms",
        "x-envoy-retry-on",
        "grpc-previous-rpc-attempts",
        "grpc-tags-bin",
        "baggage",
        "x-forwarded-host",
        "x-forwarded-client-cert",
        "x-original-url",
        "x-rewrite-url",
        "x-http-method-override",
    ],
)
async def test_a_header_that_others_believe_never_gets_in(stand: EdgeStand, header: str) -> None:
    await stand.http.get("/v1/orders", headers={**stand.bearer(), header: "c3Bvb2ZlZA=="})
    assert header not in stand.upstream.received[-1].metadata


async def test_a_client_chooses_no_request_id(stand: EdgeStand) -> None:
    response = await stand.http.get("/v1/orders", headers={**stand.bearer(), "x-request-id": "chosen"})
    assert (
        stand.upstream.received[-1].metadata["x-request-id"] == response.headers["x-request-id"] != "chosen"
    )
