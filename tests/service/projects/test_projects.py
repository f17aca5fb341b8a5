"""Projects through the edge: the given endpoints to the letter, and who may do what."""

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from typing import Any

import httpx
import pytest

from tests.mesh import Mesh, User
from tests.shop import fresh_key, reason_of

FIELDS = {"id", "name", "description", "status", "owner_id", "created_at", "updated_at", "etag"}
Project = dict[str, Any]
NewProject = Callable[..., Awaitable[Project]]


@pytest.fixture(scope="module")
async def owner(mesh: Mesh) -> User:
    return await mesh.sign_up()


@pytest.fixture(scope="module")
async def member(mesh: Mesh) -> User:
    return await mesh.sign_up()


@pytest.fixture(scope="module")
async def stranger(mesh: Mesh) -> User:
    return await mesh.sign_up()


@pytest.fixture
def new_project(mesh: Mesh, owner: User) -> NewProject:
    async def create(*members: User, **fields: Any) -> Project:
        body = {"name": "Website", **fields}
        answer = await mesh.http.post("/v1/projects", json=body, headers=owner.headers)
        assert answer.status_code == 201, answer.text
        project: Project = answer.json()
        for user in members:
            added = await add(mesh, project["id"], owner, user)
            assert added.status_code == 201, added.text
        # Members are part of a project: with them its version has moved on.
        read = await mesh.http.get(f"/v1/projects/{project['id']}", headers=owner.headers)
        return read.json()

    return create


async def add(mesh: Mesh, project_id: str, by: User, user: User, role: str = "member") -> httpx.Response:
    path = f"/v1/projects/{project_id}/members"
    return await mesh.http.post(path, json={"user_id": user.id, "role": role}, headers=by.headers)


async def test_a_project_is_created_with_the_given_fields_and_its_etag(mesh: Mesh, owner: User):
    body = {"name": "Website", "description": "The new one", "status": "planned"}
    answer = await mesh.http.post("/v1/projects", json=body, headers=owner.headers)
    project = answer.json()
    assert answer.status_code == 201
    assert set(project) == FIELDS
    assert body.items() <= project.items()
    assert project["owner_id"] == owner.id
    assert uuid.UUID(project["id"]).version == 7
    assert datetime.fromisoformat(project["created_at"]) == datetime.fromisoformat(project["updated_at"])


async def test_a_project_is_active_unless_it_says_otherwise(new_project: NewProject):
    project = await new_project()
    assert (project["status"], project["description"]) == ("active", "")


async def test_the_same_key_creates_one_project(mesh: Mesh, owner: User):
    headers = owner.headers | fresh_key()
    first, second = [
        await mesh.http.post("/v1/projects", json={"name": "Once"}, headers=headers) for _ in range(2)
    ]
    assert first.json() == second.json()


async def test_a_list_holds_what_the_caller_can_access_and_where_it_stands(
    mesh: Mesh, new_project: NewProject
):
    user, other = await mesh.sign_up(), await mesh.sign_up()
    shared = await new_project(user, name="Shared")
    own = await mesh.http.post("/v1/projects", json={"name": "Own"}, headers=user.headers)
    await mesh.http.post("/v1/projects", json={"name": "Foreign"}, headers=other.headers)
    listed = (await mesh.http.get("/v1/projects", headers=user.headers)).json()
    assert listed["data"] == [own.json(), shared]
    assert (int(listed["meta"]["total"]), listed["meta"]["page"], listed["meta"]["limit"]) == (2, 1, 20)
    second = (await mesh.http.get("/v1/projects?page=2&limit=1", headers=user.headers)).json()
    assert second["data"] == [shared]
    assert (int(second["meta"]["total"]), second["meta"]["page"], second["meta"]["limit"]) == (2, 2, 1)


async def test_a_list_can_be_narrowed_by_status_and_by_words(mesh: Mesh):
    user = await mesh.sign_up()
    for name, status in (("Alpha 100%", "on_hold"), ("Beta 1000", "on_hold"), ("alphabet", "completed")):
        body = {"name": name, "status": status}
        await mesh.http.post("/v1/projects", json=body, headers=user.headers)

    async def names(query: str) -> list[str]:
        answer = await mesh.http.get(f"/v1/projects?{query}", headers=user.headers)
        assert answer.status_code == 200, answer.text
        return sorted(project["name"] for project in answer.json()["data"])

    assert await names("search=ALPHA") == ["Alpha 100%", "alphabet"]
    assert await names("search=100%25") == ["Alpha 100%"]
    assert await names("search=alp_a") == []
    assert await names("search=%5C") == []
    assert await names("status=on_hold") == ["Alpha 100%", "Beta 1000"]
    assert await names("status=on_hold&search=beta") == ["Beta 1000"]
    assert await names("status=archived") == []


@pytest.mark.parametrize("query", ["status=unknown", "limit=-1", "page=-1", "cursor=made-up", "colour=red"])
async def test_a_list_with_a_wrong_parameter_is_refused(mesh: Mesh, owner: User, query: str):
    answer = await mesh.http.get(f"/v1/projects?{query}", headers=owner.headers)
    assert answer.status_code == 400
    assert answer.json()["code"] == 3


async def test_an_update_changes_only_what_is_sent(mesh: Mesh, owner: User, new_project: NewProject):
    project = await new_project(description="kept")
    path = f"/v1/projects/{project['id']}"
    updated = await mesh.http.put(path, json={"status": "completed"}, headers=owner.headers)
    assert updated.status_code == 200
    changed = {"status": "completed"} | {name: updated.json()[name] for name in ("updated_at", "etag")}
    assert updated.json() == {**project, **changed}
    cleared = await mesh.http.put(path, json={"description": ""}, headers=owner.headers)
    assert cleared.json()["description"] == ""
    assert (await mesh.http.get(path, headers=owner.headers)).json() == cleared.json()


async def test_an_update_of_another_version_is_refused(mesh: Mesh, owner: User, new_project: NewProject):
    path = f"/v1/projects/{(await new_project())['id']}"
    etag = (await mesh.http.get(path, headers=owner.headers)).headers["etag"]
    match = owner.headers | {"if-match": etag}
    first = await mesh.http.put(path, json={"name": "First"}, headers=match)
    assert (first.status_code, first.headers["etag"] != etag) == (200, True)
    for method in ("PUT", "DELETE"):
        body = {"name": "Second"} if method == "PUT" else None
        late = await mesh.http.request(method, path, headers=match, json=body)
        assert (late.status_code, reason_of(late)) == (409, "ETAG_MISMATCH")
    assert (await mesh.http.get(path, headers=owner.headers)).json()["name"] == "First"


async def test_a_deleted_project_is_gone(mesh: Mesh, owner: User, new_project: NewProject):
    path = f"/v1/projects/{(await new_project())['id']}"
    deleted = await mesh.http.delete(path, headers=owner.headers)
    assert (deleted.status_code, deleted.json()) == (200, {})
    gone = await mesh.http.get(path, headers=owner.headers)
    assert (gone.status_code, reason_of(gone)) == (404, "PROJECT_NOT_FOUND")


ACTIONS: list[tuple[str, str, Mapping[str, Any] | None]] = [
    ("GET", "", None),
    ("GET", "/members", None),
    ("PUT", "", {"name": "Mine now"}),
    ("POST", "/members", {"user_id": "{stranger}"}),
    ("PUT", "/members/{member}", {"role": "owner"}),
    ("DELETE", "/members/{owner}", None),
    ("DELETE", "", None),
]


async def attempts(mesh: Mesh, by: User, project_id: str, people: Mapping[str, str]) -> list[httpx.Response]:
    """Everything that one can do with a project, in an order in which an owner's last call deletes it."""

    def filled(text: str) -> str:
        return text.format(**people)

    answers = []
    for method, path, body in ACTIONS:
        json = {key: filled(value) for key, value in body.items()} if body else None
        url = f"/v1/projects/{project_id}{filled(path)}"
        answers.append(await mesh.http.request(method, url, headers=by.headers, json=json))
    return answers


async def test_members_read_owners_change_and_strangers_learn_nothing(
    mesh: Mesh, owner: User, member: User, stranger: User, new_project: NewProject
):
    project = await new_project(member)
    people = {"owner": owner.id, "member": member.id, "stranger": stranger.id}
    foreign = await attempts(mesh, stranger, project["id"], people)
    missing = await attempts(mesh, stranger, str(uuid.uuid4()), people)
    assert {answer.status_code for answer in foreign} == {404}
    assert [answer.json() for answer in foreign] == [answer.json() for answer in missing]
    by_member = await attempts(mesh, member, project["id"], people)
    assert [answer.status_code for answer in by_member] == [200, 200, 403, 403, 403, 403, 403]
    assert {reason_of(answer) for answer in by_member[2:]} == {"PROJECT_OWNER_REQUIRED"}
    # The member is made an owner, so the first owner may go; and is then a stranger.
    by_owner = await attempts(mesh, owner, project["id"], people)
    assert [answer.status_code for answer in by_owner] == [200, 200, 200, 201, 200, 200, 404]
    assert (
        await mesh.http.delete(f"/v1/projects/{project['id']}", headers=member.headers)
    ).status_code == 200


async def test_members_are_listed_with_their_roles(
    mesh: Mesh, owner: User, member: User, new_project: NewProject
):
    project = await new_project(member)
    listed = (await mesh.http.get(f"/v1/projects/{project['id']}/members", headers=member.headers)).json()
    assert [(entry["user_id"], entry["role"]) for entry in listed["data"]] == [
        (owner.id, "owner"),
        (member.id, "member"),
    ]
    assert int(listed["meta"]["total"]) == 2


async def test_only_a_user_that_identity_knows_becomes_a_member(
    mesh: Mesh, owner: User, member: User, new_project: NewProject
):
    project = await new_project(member)
    path = f"/v1/projects/{project['id']}/members"
    unknown = await mesh.http.post(path, json={"user_id": str(uuid.uuid4())}, headers=owner.headers)
    assert (unknown.status_code, reason_of(unknown)) == (404, "MEMBER_USER_NOT_FOUND")
    twice = await add(mesh, project["id"], owner, member)
    assert (twice.status_code, reason_of(twice)) == (409, "MEMBER_EXISTS")


async def test_a_member_may_leave_and_the_last_owner_may_not(
    mesh: Mesh, owner: User, member: User, new_project: NewProject
):
    members = f"/v1/projects/{(await new_project(member))['id']}/members"
    assert (await mesh.http.delete(f"{members}/{member.id}", headers=member.headers)).status_code == 200
    leaving = await mesh.http.delete(f"{members}/{owner.id}", headers=owner.headers)
    stepping_down = await mesh.http.put(
        f"{members}/{owner.id}", json={"role": "member"}, headers=owner.headers
    )
    for refused in (leaving, stepping_down):
        assert (refused.status_code, reason_of(refused)) == (400, "LAST_OWNER")


async def test_owner_id_passes_to_another_owner_when_the_first_one_leaves(
    mesh: Mesh, owner: User, member: User, new_project: NewProject
):
    project = await new_project()
    assert (await add(mesh, project["id"], owner, member, role="owner")).status_code == 201
    await mesh.http.delete(f"/v1/projects/{project['id']}/members/{owner.id}", headers=owner.headers)
    left = (await mesh.http.get(f"/v1/projects/{project['id']}", headers=member.headers)).json()
    assert left["owner_id"] == member.id


async def test_owners_who_all_leave_at_once_leave_one_behind(
    mesh: Mesh, owner: User, new_project: NewProject
):
    project = await new_project()
    owners = [owner, *[await mesh.sign_up() for _ in range(3)]]
    for user in owners[1:]:
        await add(mesh, project["id"], owner, user, role="owner")
    members = f"/v1/projects/{project['id']}/members"
    answers = await asyncio.gather(
        *(mesh.http.delete(f"{members}/{user.id}", headers=user.headers) for user in owners)
    )
    stayed = [user for user, answer in zip(owners, answers, strict=True) if answer.status_code != 200]
    assert [reason_of(answer) for answer in answers if answer.status_code != 200] == ["LAST_OWNER"]
    listed = (await mesh.http.get(members, headers=stayed[0].headers)).json()["data"]
    assert [(entry["user_id"], entry["role"]) for entry in listed] == [(stayed[0].id, "owner")]


async def test_projects_want_a_token(mesh: Mesh):
    answer = await mesh.http.get("/v1/projects")
    assert (answer.status_code, answer.json()["code"]) == (401, 16)
