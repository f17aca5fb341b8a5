"""The given endpoints as somebody's script calls them: with curl, in one go, looking at types as well as names."""

import secrets
from datetime import datetime
from typing import Any

import httpx

from tests.mesh import Mesh


async def curl(mesh: Mesh, verb: str, path: str, body: str = "", token: str = "") -> httpx.Response:
    """A request as `curl -d` sends it: JSON, under the content type of a form."""
    headers = {"content-type": "application/x-www-form-urlencoded"} if body else {}
    headers |= {"authorization": f"Bearer {token}"} if token else {}
    return await mesh.http.request(verb, path, content=body or None, headers=headers)


def shape(value: Any) -> Any:
    """The JSON types of a value, by field."""
    if isinstance(value, dict):
        return {name: shape(inner) for name, inner in value.items()}
    return [shape(inner) for inner in value] if isinstance(value, list) else type(value)


# What is given, and the etag that every resource has that can be changed.
PROJECT = dict.fromkeys(
    ("id", "name", "description", "status", "owner_id", "created_at", "updated_at", "etag"), str
)
USER = dict.fromkeys(("id", "username", "email", "first_name", "last_name", "etag"), str)


async def test_a_script_signs_up_signs_in_and_keeps_its_profile(mesh: Mesh) -> None:
    name = f"curl{secrets.token_hex(6)}"
    account = f'"email": "{name}@example.com", "password": "correct horse"'
    registered = await curl(mesh, "POST", "/v1/users/register", f'{{"username": "{name}", {account}}}')
    assert registered.status_code == 201
    assert registered.headers["content-type"] == "application/json"
    assert shape(registered.json()) == {"id": str, "username": str, "email": str}

    grant = await curl(mesh, "POST", "/v1/users/login", f"{{{account}}}")
    assert grant.status_code == 200
    assert shape(grant.json()) == {
        "access_token": str,
        "token_type": str,
        "expires_in": int,
        "refresh_token": str,
    }
    assert (grant.json()["token_type"], grant.json()["expires_in"]) == ("Bearer", 600)

    token, path = grant.json()["access_token"], f"/v1/users/{registered.json()['id']}"
    changed = await curl(mesh, "PUT", path, '{"first_name": "Ada"}', token)
    assert changed.status_code == 200
    seen = await curl(mesh, "GET", path, token=token)
    assert seen.json() == changed.json()
    assert shape(seen.json()) == USER
    assert (seen.json()["first_name"], seen.json()["last_name"], seen.json()["username"]) == ("Ada", "", name)


async def test_a_script_makes_finds_changes_and_deletes_a_project(mesh: Mesh) -> None:
    token = (await mesh.sign_up()).token
    body = '{"name": "Blue whale", "description": "Sea + sky", "status": "active"}'
    made = await curl(mesh, "POST", "/v1/projects", body, token)
    assert made.status_code == 201
    assert shape(made.json()) == PROJECT
    for name in ("created_at", "updated_at"):
        assert datetime.fromisoformat(made.json()[name]).tzinfo is not None

    # As a browser's form and most HTTP libraries write a space, and as others do.
    for search in ("blue+whale", "blue%20whale", "sea+%2B+sky"):
        query = f"status=active&search={search}&page=1&limit=5"
        found = await curl(mesh, "GET", f"/v1/projects?{query}", token=token)
        assert found.status_code == 200, found.text
        assert set(found.json()) == {"data", "meta"}
        assert [project["id"] for project in found.json()["data"]] == [made.json()["id"]], search
        meta = found.json()["meta"]
        assert {name: meta[name] for name in ("total", "page", "limit")} == {
            "total": 1,
            "page": 1,
            "limit": 5,
        }

    path = f"/v1/projects/{made.json()['id']}"
    assert (await curl(mesh, "GET", path, token=token)).json() == made.json()
    changed = await curl(mesh, "PUT", path, '{"status": "completed"}', token)
    assert (changed.status_code, changed.json()["status"]) == (200, "completed")
    assert changed.json()["name"] == "Blue whale"
    deleted = await curl(mesh, "DELETE", path, token=token)
    assert (deleted.status_code, deleted.json()) == (200, {})
    assert (await curl(mesh, "GET", path, token=token)).status_code == 404


async def test_without_a_token_the_given_endpoints_are_closed(mesh: Mesh) -> None:
    person = "/v1/users/0198f2a0-0000-7000-8000-000000000001"
    project = person.replace("users", "projects")
    calls = [("GET", person), ("PUT", person), ("GET", "/v1/projects"), ("POST", "/v1/projects")]
    calls += [(verb, project) for verb in ("GET", "PUT", "DELETE")]
    for verb, path in calls:
        answer = await curl(mesh, verb, path, "{}" if verb in ("PUT", "POST") else "")
        assert answer.status_code == 401, (verb, path)
        assert answer.json()["code"] == 16
