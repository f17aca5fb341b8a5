"""Members: who they are, what becomes of a project with many of them, and what is told about them."""

import asyncio
import os
import signal
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import httpx
import psycopg
import pytest

from chassis.contract import all_event_types
from tests.mesh import Mesh, User
from tests.shop import reason_of

MANY = 100_000


@pytest.fixture
async def owner(mesh: Mesh) -> User:
    return await mesh.sign_up()


async def new_project(mesh: Mesh, owner: User, *members: User) -> str:
    answer = await mesh.http.post("/v1/projects", json={"name": "Apollo"}, headers=owner.headers)
    assert answer.status_code == 201, answer.text
    project_id = str(answer.json()["id"])
    for user in members:
        added = await mesh.http.post(
            f"/v1/projects/{project_id}/members", json={"user_id": user.id}, headers=owner.headers
        )
        assert added.status_code == 201, added.text
    return project_id


async def crowd(mesh: Mesh, project_id: str) -> None:
    """Gives a project very many members."""
    async with await psycopg.AsyncConnection.connect(mesh.database_url("projects")) as connection:
        await connection.execute(
            "INSERT INTO project_members SELECT %s, gen_random_uuid(), 'member', now()"
            " FROM generate_series(1, %s)",
            (project_id, MANY),
        )


async def test_a_project_of_100_000_members_changes_as_quickly_as_any(mesh: Mesh, owner: User):
    other, newcomer = await mesh.sign_up(), await mesh.sign_up()
    project_id = await new_project(mesh, owner)
    await crowd(mesh, project_id)
    path = f"/v1/projects/{project_id}"

    async def others() -> list[httpx.Response]:
        return [await mesh.http.get("/v1/projects", headers=other.headers) for _ in range(20)]

    changes = [
        mesh.http.put(path, json={"name": "Apollo 2"}, headers=owner.headers),
        mesh.http.post(f"{path}/members", json={"user_id": newcomer.id}, headers=owner.headers),
        mesh.http.get(f"{path}/members", headers=owner.headers),
    ]
    answers, meanwhile = await asyncio.gather(asyncio.gather(*changes), others())
    assert [answer.status_code for answer in answers] == [200, 201, 200]
    assert {answer.status_code for answer in meanwhile} == {200}
    left = await mesh.http.delete(f"{path}/members/{newcomer.id}", headers=newcomer.headers)
    assert left.status_code == 200
    assert (await mesh.http.delete(path, headers=owner.headers)).status_code == 200


@asynccontextmanager
async def held(mesh: Mesh, project_id: str) -> AsyncIterator[None]:
    """While somebody else's transaction holds the project."""
    async with await psycopg.AsyncConnection.connect(mesh.database_url("projects")) as connection:
        await connection.execute("SELECT 1 FROM projects WHERE id = %s FOR UPDATE", (project_id,))
        yield
        await connection.rollback()


async def test_who_may_not_change_a_project_does_not_wait_for_it(mesh: Mesh, owner: User):
    member, stranger = await mesh.sign_up(), await mesh.sign_up()
    project_id = await new_project(mesh, owner, member)
    path = f"/v1/projects/{project_id}"
    async with held(mesh, project_id):
        foreign = await mesh.http.put(path, json={"name": "Mine"}, headers=stranger.headers)
        by_member = await mesh.http.put(path, json={"name": "Mine"}, headers=member.headers)
        by_owner = await mesh.http.put(path, json={"name": "Mine"}, headers=owner.headers)
    missing = await mesh.http.put(
        f"/v1/projects/{uuid.uuid4()}", json={"name": "Mine"}, headers=stranger.headers
    )
    assert (foreign.status_code, foreign.json()) == (404, missing.json())
    assert (by_member.status_code, reason_of(by_member)) == (403, "PROJECT_OWNER_REQUIRED")
    assert (by_owner.status_code, reason_of(by_owner)) == (409, "CONFLICT")


async def test_an_owner_who_is_demoted_while_waiting_for_the_project_changes_nothing(mesh: Mesh, owner: User):
    second = await mesh.sign_up()
    project_id = await new_project(mesh, owner, second)
    async with await psycopg.AsyncConnection.connect(mesh.database_url("projects")) as connection:
        await connection.execute("SELECT 1 FROM projects WHERE id = %s FOR UPDATE", (project_id,))
        waiting = asyncio.create_task(
            mesh.http.put(f"/v1/projects/{project_id}", json={"name": "Mine"}, headers=owner.headers)
        )
        await somebody_waits(connection)
        await connection.execute(
            "UPDATE project_members SET role = 'member' WHERE project_id = %s AND user_id = %s",
            (project_id, owner.id),
        )
        await connection.commit()
    answer = await waiting
    assert (answer.status_code, reason_of(answer)) == (403, "PROJECT_OWNER_REQUIRED")


async def somebody_waits(connection: psycopg.AsyncConnection[Any]) -> None:
    async with asyncio.timeout(5):
        while True:
            found = await connection.execute("SELECT count(*) FROM pg_locks WHERE NOT granted")
            if (await found.fetchone() or (0,))[0]:
                return


async def test_members_see_each_others_public_profile(mesh: Mesh, owner: User):
    member = await mesh.sign_up()
    await mesh.http.put(f"/v1/users/{owner.id}", json={"first_name": "Ada"}, headers=owner.headers)
    project_id = await new_project(mesh, owner, member)
    listed = await mesh.http.get(f"/v1/projects/{project_id}/members", headers=member.headers)
    people = [entry["user"] for entry in listed.json()["data"]]
    assert [(user["id"], user["username"], user["first_name"]) for user in people] == [
        (owner.id, owner.username, "Ada"),
        (member.id, member.username, ""),
    ]
    assert owner.email not in listed.text


@contextmanager
def hanging(mesh: Mesh, service: str) -> Iterator[None]:
    """While a service's processes accept connections and say nothing."""
    pids = mesh.processes(service)
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


async def test_members_are_listed_without_names_while_identity_hangs(mesh: Mesh, owner: User):
    project_id = await new_project(mesh, owner)
    path = f"/v1/projects/{project_id}/members"
    # Once before, so that its token is known.
    assert (await mesh.http.get(path, headers=owner.headers)).status_code == 200
    with hanging(mesh, "identity"):
        listed = await mesh.http.get(path, headers=owner.headers)
    await mesh.healthy()
    assert listed.status_code == 200, listed.text
    [entry] = listed.json()["data"]
    assert (entry["user_id"], entry.get("user")) == (owner.id, None)


async def test_a_project_tells_its_whole_life_in_the_order_of_its_versions(mesh: Mesh, owner: User):
    member = await mesh.sign_up()
    project_id = await new_project(mesh, owner, member)
    path = f"/v1/projects/{project_id}"
    steps = [
        ("PUT", path, {"status": "on_hold"}),
        ("PUT", path, {"status": "on_hold"}),
        ("PUT", f"{path}/members/{member.id}", {"role": "owner"}),
        ("PUT", f"{path}/members/{member.id}", {"role": "owner"}),
        ("DELETE", f"{path}/members/{owner.id}", None),
    ]
    for method, url, body in steps:
        answer = await mesh.http.request(method, url, json=body, headers=owner.headers)
        assert answer.status_code == 200, answer.text
    # An id is the same one in capitals.
    deleted = await mesh.http.delete(f"/v1/projects/{project_id.upper()}", headers=member.headers)
    assert deleted.status_code == 200
    events = await published(mesh, project_id)
    assert [name for name, _, _ in events] == [
        "ProjectCreated",
        "ProjectMemberAdded",
        "ProjectUpdated",
        "ProjectMemberUpdated",
        "ProjectMemberRemoved",
        "ProjectUpdated",
        "ProjectDeleted",
    ]
    assert [version for _, version, _ in events] == [1, 2, 3, 4, 5, 6, 7]
    contents = [event for _, _, event in events]
    assert contents[2].project.status == contents[2].project.on_hold
    assert contents[5].project.owner_id == member.id
    assert contents[4].member.user_id == owner.id


async def published(mesh: Mesh, project_id: str) -> list[tuple[str, int, Any]]:
    """What the outbox has about a project: names, versions and events, in order."""
    async with await psycopg.AsyncConnection.connect(mesh.database_url("projects")) as connection:
        found = await connection.execute(
            "SELECT type, aggregate_version, payload FROM outbox WHERE aggregate_id = %s ORDER BY position",
            (project_id,),
        )
        rows = await found.fetchall()
    return [
        (name.rpartition(".")[2], version, all_event_types()[name].message_class.FromString(payload))
        for name, version, payload in rows
    ]
