"""Signing in, refreshing and signing out, as a client of the edge sees it."""

import asyncio
import time

import httpx

from tests.mesh import Mesh
from tests.service.identity.accounts import bearer, new_account, part_of, reason, register, sign_in, signed_in

REVOKED_WITHIN_SECONDS = 5.0


async def refresh(http: httpx.AsyncClient, refresh_token: str) -> httpx.Response:
    return await http.post("/v1/users/refresh", json={"refresh_token": refresh_token})


async def refused_within(http: httpx.AsyncClient, path: str, headers: dict[str, str], seconds: float) -> bool:
    """Whether a call comes to be refused for a revoked token in so many seconds."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        answer = await http.get(path, headers=headers)
        if answer.status_code == 401:
            return reason(answer) == "TOKEN_REVOKED"
        await asyncio.sleep(0.1)
    return False


async def test_signing_in_answers_exactly_a_pair_of_tokens(mesh: Mesh) -> None:
    tokens = await sign_in(mesh.http, await register(mesh.http))
    assert tokens == {
        "access_token": tokens["access_token"],
        "token_type": "Bearer",
        "expires_in": 600,
        "refresh_token": tokens["refresh_token"],
    }


async def test_an_access_token_says_who_and_for_how_long(mesh: Mesh) -> None:
    account = await register(mesh.http)
    token = (await sign_in(mesh.http, account))["access_token"]
    header, claims = part_of(token, 0), part_of(token, 1)
    assert (header["alg"], header["typ"]) == ("ES256", "at+jwt")
    assert (claims["sub"], claims["role"]) == (account["id"], "customer")
    assert claims["exp"] - claims["iat"] == 600
    assert {"iss", "aud", "scope", "sid", "jti"} <= claims.keys()


async def test_a_wrong_password_and_an_unknown_address_get_the_same_answer(mesh: Mesh) -> None:
    account = await register(mesh.http)
    wrong = {"email": account["email"], "password": "not the password"}
    unknown = {"email": new_account()["email"], "password": "not the password"}
    answers = [await mesh.http.post("/v1/users/login", json=body) for body in (wrong, unknown)]
    assert [answer.status_code for answer in answers] == [401, 401]
    assert answers[0].json() == answers[1].json()
    assert reason(answers[0]) == "LOGIN_FAILED"


async def test_after_five_failures_an_account_must_wait_and_others_need_not(mesh: Mesh) -> None:
    account, other = await register(mesh.http), await register(mesh.http)
    wrong = {"email": account["email"], "password": "not the password"}
    answers = [await mesh.http.post("/v1/users/login", json=wrong) for _ in range(6)]
    assert [answer.status_code for answer in answers] == [401] * 5 + [429]
    assert reason(answers[-1]) == "RATE_LIMITED"
    assert any("retryDelay" in detail or "retry_delay" in detail for detail in answers[-1].json()["details"])
    assert await sign_in(mesh.http, other)


async def test_a_refresh_gives_a_new_pair_that_works(mesh: Mesh) -> None:
    tokens = await sign_in(mesh.http, await register(mesh.http))
    answer = await refresh(mesh.http, tokens["refresh_token"])
    assert answer.status_code == 200
    renewed = answer.json()
    assert renewed.keys() == tokens.keys()
    assert renewed["refresh_token"] != tokens["refresh_token"]
    assert part_of(renewed["access_token"], 1)["sid"] == part_of(tokens["access_token"], 1)["sid"]
    assert (await mesh.http.get("/v1/users/me", headers=bearer(renewed["access_token"]))).status_code == 200


async def test_a_reused_refresh_token_revokes_its_family(mesh: Mesh) -> None:
    tokens = await sign_in(mesh.http, await register(mesh.http))
    renewed = (await refresh(mesh.http, tokens["refresh_token"])).json()
    reused = await refresh(mesh.http, tokens["refresh_token"])
    assert (reused.status_code, reason(reused)) == (401, "REFRESH_TOKEN_REUSED")
    heir = await refresh(mesh.http, renewed["refresh_token"])
    assert (heir.status_code, reason(heir)) == (401, "REFRESH_TOKEN_INVALID")
    headers = bearer(renewed["access_token"])
    assert await refused_within(mesh.http, "/v1/users/me", headers, REVOKED_WITHIN_SECONDS)


async def test_of_two_refreshes_at_once_with_one_token_at_most_one_succeeds(mesh: Mesh) -> None:
    tokens = await sign_in(mesh.http, await register(mesh.http))
    answers = await asyncio.gather(*(refresh(mesh.http, tokens["refresh_token"]) for _ in range(8)))
    assert sorted(answer.status_code for answer in answers) == [200] + [401] * 7


async def test_a_refresh_token_that_nobody_gave_out_is_refused(mesh: Mesh) -> None:
    for token in ("x", "x" * 512, "'; --", "\x01", "ключ"):
        answer = await refresh(mesh.http, token)
        assert (answer.status_code, reason(answer)) == (401, "REFRESH_TOKEN_INVALID")
    assert (await refresh(mesh.http, "")).status_code == 400
    assert (await refresh(mesh.http, "x" * 513)).status_code == 400


async def test_signing_out_ends_the_session_everywhere_and_leaves_the_others(mesh: Mesh) -> None:
    account = await register(mesh.http)
    here, elsewhere = await sign_in(mesh.http, account), await sign_in(mesh.http, account)
    headers = bearer(here["access_token"])
    assert (await mesh.http.get("/v1/orders", headers=headers)).status_code == 200
    answer = await mesh.http.post("/v1/users/logout", json={}, headers=headers)
    assert (answer.status_code, answer.json()) == (200, {})
    assert await refused_within(mesh.http, "/v1/orders", headers, REVOKED_WITHIN_SECONDS)
    assert await refused_within(mesh.http, "/v1/users/me", headers, REVOKED_WITHIN_SECONDS)
    assert (await refresh(mesh.http, here["refresh_token"])).status_code == 401
    assert (await mesh.http.get("/v1/orders", headers=bearer(elsewhere["access_token"]))).status_code == 200


async def test_signing_out_everywhere_ends_every_session(mesh: Mesh) -> None:
    account = await register(mesh.http)
    sessions = [await sign_in(mesh.http, account) for _ in range(3)]
    headers = bearer(sessions[0]["access_token"])
    answer = await mesh.http.post("/v1/users/logout", json={"everywhere": True}, headers=headers)
    assert answer.status_code == 200
    for session in sessions:
        assert (await refresh(mesh.http, session["refresh_token"])).status_code == 401
        gone = bearer(session["access_token"])
        assert await refused_within(mesh.http, "/v1/orders", gone, REVOKED_WITHIN_SECONDS)
    assert await sign_in(mesh.http, account)


async def test_a_changed_password_ends_the_other_sessions(mesh: Mesh) -> None:
    account, headers = await signed_in(mesh.http)
    other = await sign_in(mesh.http, account)
    body = {"current_password": account["password"], "new_password": "quite another one"}
    assert (await mesh.http.put("/v1/users/me/password", json=body, headers=headers)).status_code == 200
    assert (await refresh(mesh.http, other["refresh_token"])).status_code == 401
    assert await refused_within(
        mesh.http, "/v1/orders", bearer(other["access_token"]), REVOKED_WITHIN_SECONDS
    )
    assert (await mesh.http.get("/v1/orders", headers=headers)).status_code == 200
    assert await sign_in(mesh.http, {**account, "password": "quite another one"})
    old = {"email": account["email"], "password": account["password"]}
    assert (await mesh.http.post("/v1/users/login", json=old)).status_code == 401


async def test_a_password_changes_only_for_who_knows_it(mesh: Mesh) -> None:
    _, headers = await signed_in(mesh.http)
    body = {"current_password": "a guess", "new_password": "quite another one"}
    answer = await mesh.http.put("/v1/users/me/password", json=body, headers=headers)
    assert (answer.status_code, reason(answer)) == (403, "PASSWORD_INCORRECT")


async def test_the_key_set_has_public_halves_only(mesh: Mesh) -> None:
    answer = await mesh.http.get("/.well-known/jwks.json")
    assert answer.status_code == 200
    assert answer.json()["keys"]
    for key in answer.json()["keys"]:
        assert key.keys() == {"kty", "crv", "x", "y", "kid", "alg", "use"}
        assert (key["kty"], key["crv"], key["alg"], key["use"]) == ("EC", "P-256", "ES256", "sig")


async def test_tokens_stay_valid_when_the_key_rotates(mesh: Mesh) -> None:
    _, headers = await signed_in(mesh.http)
    admin = bearer(await mesh.admin_token())
    before = (await mesh.http.get("/.well-known/jwks.json")).json()["keys"]
    answer = await mesh.http.post("/v1/signing-keys:rotate", json={}, headers=admin)
    assert answer.status_code == 200, answer.text
    assert (await mesh.http.get("/v1/users/me", headers=headers)).status_code == 200
    assert (await mesh.http.post("/v1/signing-keys:rotate", json={}, headers=headers)).status_code == 403
    after = {key["kid"] for key in (await mesh.http.get("/.well-known/jwks.json")).json()["keys"]}
    assert {key["kid"] for key in before} <= after
    assert (await signed_in(mesh.http))[1]
