"""What an operator sees of traces."""

import pytest

from tests.e2e.terminal import meshctl
from tests.mesh import Mesh, User
from tests.traces import Traces


@pytest.fixture(scope="module")
async def traces(mesh: Mesh) -> Traces:
    found = Traces(mesh)
    # Its sign-in makes a trace, and is over by now.
    await found.listed()
    return found


async def new_project(mesh: Mesh, traces: Traces, anna: User) -> str:
    """A request whose trace has arrived; its trace id."""
    body = {"name": "Attic", "description": "", "status": "active"}
    made = await mesh.http.post("/v1/projects", json=body, headers=anna.headers)
    assert made.status_code == 201, made.text
    await traces.of(made, ("projects", "client", "SQL COMMIT"))
    return made.headers["trace-id"]


async def test_the_latest_trace_is_drawn_hop_by_hop(mesh: Mesh, traces: Traces, anna: User) -> None:
    trace_id = await new_project(mesh, traces, anna)
    title, *hops = (await meshctl(mesh, "trace")).out.splitlines()
    assert title.startswith(trace_id)
    assert "edge       POST /v1/projects" in hops[0]
    assert "projects   protomesh.projects.v1.ProjectService/CreateProject" in hops[2]
    assert any("SQL INSERT INTO projects" in hop for hop in hops)
    assert all(" ms  " in hop for hop in hops)


async def test_a_trace_is_found_by_its_id_by_its_name_and_by_a_service(
    mesh: Mesh, traces: Traces, anna: User
) -> None:
    wanted = await new_project(mesh, traces, anna)
    listed = await mesh.http.get("/v1/products")
    await traces.of(listed, ("catalog", "client", "SQL SELECT"))
    for choice in ([wanted], [wanted.upper()], ["--search", "post /v1/projects"], ["--service", "projects"]):
        drawn = await meshctl(mesh, "trace", *choice)
        assert drawn.out.startswith(wanted), (choice, drawn)


async def test_recent_traces_are_listed_without_those_of_looking(
    mesh: Mesh, traces: Traces, anna: User
) -> None:
    trace_id = await new_project(mesh, traces, anna)
    title, first, *_ = (await meshctl(mesh, "trace", "--list")).out.splitlines()
    assert title.split() == ["trace", "id", "began", "ms", "spans", "errors", "name", "services"]
    assert trace_id in first
    assert "POST /v1/projects" in first
    assert "edge, projects" in first


async def test_a_trace_that_is_not_kept_is_a_sentence(mesh: Mesh) -> None:
    assert "No such trace is kept" in (await meshctl(mesh, "trace", "--search", "nothing-like-it")).refusal
    assert "TRACE_NOT_FOUND" in (await meshctl(mesh, "trace", "a" * 32)).refusal
    assert "trace_id" in (await meshctl(mesh, "trace", "123")).refusal
