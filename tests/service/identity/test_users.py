"""Profiles, roles and the administration of users, as a client of the edge sees it."""

import uuid

import grpc
import pytest
from protomesh.identity.v1.user_service_pb2 import BatchGetUsersRequest
from protomesh.identity.v1.user_service_pb2_grpc import UserServiceStub

from tests.mesh import Mesh
from tests.service.identity.accounts import bearer, reason, register, sign_in, signed_in


async def test_a_profile_has_exactly_the_given_fields_and_its_etag(mesh: Mesh) -> None:
    account, headers = await signed_in(mesh.http)
    answer = await mesh.http.get(f"/v1/users/{account['id']}", headers=headers)
    assert answer.status_code == 200
    assert answer.json() == {
        "id": account["id"],
        "username": account["username"],
        "email": account["email"],
        "first_name": "",
        "last_name": "",
        "etag": "1",
    }


async def test_me_is_the_account_of_the_caller(mesh: Mesh) -> None:
    account, headers = await signed_in(mesh.http)
    body = (await mesh.http.get("/v1/users/me", headers=headers)).json()
    assert (body["id"], body["email"], body["role"]) == (account["id"], account["email"], "customer")
    assert "identity.users.read" not in body["permissions"]
    assert body["created_at"] <= body["updated_at"]


async def test_another_users_profile_is_not_told_from_one_that_does_not_exist(mesh: Mesh) -> None:
    other = await register(mesh.http)
    _, headers = await signed_in(mesh.http)
    hidden = await mesh.http.get(f"/v1/users/{other['id']}", headers=headers)
    missing = await mesh.http.get(f"/v1/users/{uuid.uuid4()}", headers=headers)
    assert (hidden.status_code, missing.status_code) == (404, 404)
    assert hidden.json() == missing.json()
    change = {"first_name": "Mallory"}
    hidden = await mesh.http.put(f"/v1/users/{other['id']}", json=change, headers=headers)
    missing = await mesh.http.put(f"/v1/users/{uuid.uuid4()}", json=change, headers=headers)
    assert (hidden.status_code, missing.status_code) == (404, 404)
    assert hidden.json() == missing.json()


async def test_an_update_changes_only_what_is_sent(mesh: Mesh) -> None:
    account, headers = await signed_in(mesh.http)
    path = f"/v1/users/{account['id']}"
    await mesh.http.put(path, json={"first_name": "Zoë 🦊", "last_name": "O'Neil-李"}, headers=headers)
    answer = await mesh.http.put(path, json={"first_name": "Ada"}, headers=headers)
    assert answer.status_code == 200
    assert (answer.json()["first_name"], answer.json()["last_name"]) == ("Ada", "O'Neil-李")
    await mesh.http.put(path, json={"last_name": ""}, headers=headers)
    body = (await mesh.http.get(path, headers=headers)).json()
    assert (body["first_name"], body["last_name"]) == ("Ada", "")
    assert body["email"] == account["email"]


async def test_an_update_of_an_older_version_is_refused(mesh: Mesh) -> None:
    account, headers = await signed_in(mesh.http)
    path = f"/v1/users/{account['id']}"
    etag = (await mesh.http.get(path, headers=headers)).headers["etag"]
    first = await mesh.http.put(path, json={"first_name": "A"}, headers={**headers, "if-match": etag})
    second = await mesh.http.put(path, json={"first_name": "B"}, headers={**headers, "if-match": etag})
    assert first.status_code == 200
    assert first.headers["etag"] != etag
    assert (second.status_code, reason(second)) == (409, "ETAG_MISMATCH")


async def test_an_email_address_changes_only_with_the_password(mesh: Mesh) -> None:
    account, headers = await signed_in(mesh.http)
    path, email = f"/v1/users/{account['id']}", f"new-{account['email']}"
    refused = await mesh.http.put(path, json={"email": email}, headers=headers)
    assert (refused.status_code, reason(refused)) == (403, "PASSWORD_INCORRECT")
    same = await mesh.http.put(path, json={"email": account["email"], "first_name": "A"}, headers=headers)
    assert same.status_code == 200
    body = {"email": email, "current_password": account["password"]}
    assert (await mesh.http.put(path, json=body, headers=headers)).json()["email"] == email
    assert await sign_in(mesh.http, {**account, "email": email})


async def test_an_update_cannot_take_anothers_names(mesh: Mesh) -> None:
    other = await register(mesh.http)
    account, headers = await signed_in(mesh.http)
    path = f"/v1/users/{account['id']}"
    answer = await mesh.http.put(path, json={"username": other["username"].upper()}, headers=headers)
    assert (answer.status_code, reason(answer)) == (409, "USERNAME_TAKEN")
    body = {"email": other["email"], "current_password": account["password"]}
    answer = await mesh.http.put(path, json=body, headers=headers)
    assert (answer.status_code, reason(answer)) == (409, "EMAIL_TAKEN")


@pytest.mark.parametrize("name", ["x" * 101, "line\nbreak", "nul\x00"], ids=repr)
async def test_a_name_that_breaks_the_contract_is_refused(mesh: Mesh, name: str) -> None:
    account, headers = await signed_in(mesh.http)
    answer = await mesh.http.put(f"/v1/users/{account['id']}", json={"first_name": name}, headers=headers)
    assert (answer.status_code, reason(answer)) == (400, "VALIDATION_FAILED")


@pytest.mark.parametrize("path", ["/v1/users", "/v1/roles"])
async def test_a_customer_does_not_administer(mesh: Mesh, path: str) -> None:
    account, headers = await signed_in(mesh.http)
    assert (await mesh.http.get(path)).status_code == 401
    answer = await mesh.http.get(path, headers=headers)
    assert (answer.status_code, reason(answer)) == (403, "PERMISSION_MISSING")
    for action in (":disable", ":enable"):
        answer = await mesh.http.post(f"/v1/users/{account['id']}{action}", json={}, headers=headers)
        assert answer.status_code == 403
    answer = await mesh.http.put(f"/v1/users/{account['id']}/role", json={"role": "admin"}, headers=headers)
    assert answer.status_code == 403


async def test_staff_find_and_list_users(mesh: Mesh) -> None:
    accounts = [await register(mesh.http) for _ in range(3)]
    staff = bearer(await mesh.staff_token())
    search = {"search": accounts[1]["username"].upper()}
    found = (await mesh.http.get("/v1/users", params=search, headers=staff)).json()
    assert [row["id"] for row in found["data"]] == [accounts[1]["id"]]
    assert found["data"][0]["role"] == "customer"
    assert (found["meta"]["total"], found["meta"]["page"], found["meta"]["limit"]) == (1, 1, 20)
    listed = (await mesh.http.get("/v1/users", params={"role": "customer", "limit": 2}, headers=staff)).json()
    assert len(listed["data"]) == 2
    assert listed["meta"]["next_cursor"]
    profile = await mesh.http.get(f"/v1/users/{accounts[0]['id']}", headers=staff)
    assert profile.json()["email"] == accounts[0]["email"]


@pytest.mark.parametrize("search", ["%", "_", "\\", "' OR 1=1 --", "💥"])
async def test_a_search_is_text_and_not_a_pattern(mesh: Mesh, search: str) -> None:
    staff = bearer(await mesh.staff_token())
    answer = await mesh.http.get("/v1/users", params={"search": search}, headers=staff)
    assert answer.status_code == 200
    for row in answer.json()["data"]:
        assert search in " ".join((row["username"], row["email"], row["first_name"], row["last_name"]))


async def test_a_new_role_holds_from_the_next_sign_in(mesh: Mesh) -> None:
    account = await register(mesh.http)
    before = await sign_in(mesh.http, account)
    admin = bearer(await mesh.admin_token())
    answer = await mesh.http.put(f"/v1/users/{account['id']}/role", json={"role": "staff"}, headers=admin)
    assert (answer.status_code, answer.json()["role"]) == (200, "staff")
    gone = await mesh.http.post("/v1/users/refresh", json={"refresh_token": before["refresh_token"]})
    assert gone.status_code == 401
    headers = bearer((await sign_in(mesh.http, account))["access_token"])
    assert (await mesh.http.get("/v1/users", headers=headers)).status_code == 200


async def test_a_disabled_user_is_out_until_enabled(mesh: Mesh) -> None:
    account = await register(mesh.http)
    tokens = await sign_in(mesh.http, account)
    staff = bearer(await mesh.staff_token())
    path = f"/v1/users/{account['id']}"
    answer = await mesh.http.post(f"{path}:disable", json={}, headers=staff)
    assert (answer.status_code, answer.json()["disabled"]) == (200, True)
    login = {"email": account["email"], "password": account["password"]}
    answer = await mesh.http.post("/v1/users/login", json=login)
    assert (answer.status_code, reason(answer)) == (401, "LOGIN_FAILED")
    renewal = {"refresh_token": tokens["refresh_token"]}
    assert (await mesh.http.post("/v1/users/refresh", json=renewal)).status_code == 401
    assert (await mesh.http.post(f"{path}:enable", json={}, headers=staff)).status_code == 200
    assert await sign_in(mesh.http, account)


async def test_staff_have_no_power_over_administrators(mesh: Mesh) -> None:
    staff, admin = bearer(await mesh.staff_token()), bearer(await mesh.admin_token())
    admin_id = (await mesh.http.get("/v1/users/me", headers=admin)).json()["id"]
    answer = await mesh.http.post(f"/v1/users/{admin_id}:disable", json={}, headers=staff)
    assert (answer.status_code, reason(answer)) == (403, "ROLE_PROTECTED")
    answer = await mesh.http.put(f"/v1/users/{admin_id}", json={"first_name": "X"}, headers=staff)
    assert (answer.status_code, reason(answer)) == (403, "ROLE_PROTECTED")
    answer = await mesh.http.put(f"/v1/users/{admin_id}/role", json={"role": "customer"}, headers=staff)
    assert (answer.status_code, reason(answer)) == (403, "PERMISSION_MISSING")


async def test_roles_grant_what_the_contracts_say(mesh: Mesh) -> None:
    staff = bearer(await mesh.staff_token())
    roles = {
        role["name"]: role["permissions"]
        for role in (await mesh.http.get("/v1/roles", headers=staff)).json()["data"]
    }
    assert roles.keys() == {"admin", "staff", "customer", "service"}
    assert "identity.roles.assign" in roles["admin"]
    assert "identity.users.read" in roles["staff"]
    assert set(roles["staff"]) < set(roles["admin"])


async def test_projects_learns_which_users_exist(mesh: Mesh) -> None:
    one, two = await register(mesh.http), await register(mesh.http)
    users = UserServiceStub(mesh.channel("projects"))
    answer = await users.BatchGetUsers(
        BatchGetUsersRequest(user_ids=[two["id"], str(uuid.uuid4()), one["id"]])
    )
    assert [(user.id, user.username) for user in answer.users] == [
        (two["id"], two["username"]),
        (one["id"], one["username"]),
    ]


async def test_a_workload_that_is_not_on_the_list_learns_nothing(mesh: Mesh) -> None:
    users = UserServiceStub(mesh.channel("catalog"))
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await users.BatchGetUsers(BatchGetUsersRequest(user_ids=[str(uuid.uuid4())]))
    assert refusal.value.code() is grpc.StatusCode.PERMISSION_DENIED
