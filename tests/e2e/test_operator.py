"""What an operator does at the terminal: status, audit records, imports; and the answer where no mesh runs."""

import json
import os
import signal
import uuid
from pathlib import Path

import pytest

from tests.e2e.terminal import meshctl
from tests.mesh import Mesh


@pytest.mark.parametrize(
    "command",
    [("status",), ("trace",), ("call", "ListProducts"), ("events", "list"), ("reconcile",), ("open",)],
    ids=" ".join,
)
async def test_where_no_mesh_runs_a_command_says_so(tmp_path: Path, command: tuple[str, ...]) -> None:
    refusal = (await meshctl(tmp_path, *command)).refusal
    assert str(tmp_path) in refusal
    assert len(refusal.splitlines()) == 1


async def test_the_status_shows_every_process(mesh: Mesh) -> None:
    await mesh.healthy()
    shown = await meshctl(mesh, "status")
    assert shown.code == 0, shown
    title, *rows = (line.split() for line in shown.out.splitlines())
    assert title == ["process", "health", "pid", "port", "metrics", "memory", "uptime", "restarts"]
    states = {state["name"]: state for state in mesh.status()}
    assert {row[0] for row in rows} == {*states, "all"}
    for name, health, pid, port, *_ in rows[:-1]:
        assert (health, int(pid), int(port)) == ("healthy", states[name]["pid"], states[name]["port"])


async def test_the_status_fails_while_a_process_is_not_healthy(mesh: Mesh) -> None:
    # One that hangs: one that was killed may be back before it is asked.
    [hung] = mesh.processes("ratelimit")
    os.kill(hung, signal.SIGSTOP)
    try:
        shown = await meshctl(mesh, "status")
    finally:
        os.kill(hung, signal.SIGCONT)
    await mesh.healthy()
    assert shown.code == 1
    (row,) = (line for line in shown.out.splitlines() if "ratelimit-1" in line)
    assert "not healthy" in row


async def test_who_did_what_is_shown(mesh: Mesh) -> None:
    user, admin = await mesh.sign_up(), {"authorization": f"Bearer {await mesh.admin_token()}"}
    barred = await mesh.http.post(f"/v1/users/{user.id}:disable", json={}, headers=admin)
    assert barred.status_code == 200
    shown = await meshctl(mesh, "audit", "--rpc", "disableuser", "--json")
    newest = json.loads(shown.out.splitlines()[0])
    assert (newest["service"], newest["outcome"], newest["request"]) == ("identity", "OK", {"id": user.id})
    assert newest["trace_id"] == barred.headers["trace-id"]
    table = await meshctl(mesh, "audit", "--principal", newest["principal"], "--since", "1h")
    assert f"id: {user.id}" in table.out
    none = await meshctl(mesh, "audit", "--principal", "workload:nobody")
    assert none.out.strip() == "There are no such records."
    wrong = await meshctl(mesh, "audit", "--since", "yesterday")
    assert (wrong.code, wrong.err.strip()) == (
        1,
        "'yesterday' is not a duration: write 30m, 24h or 7d.",
    )


async def test_an_import_runs_the_command_of_the_catalog_for_this_mesh(mesh: Mesh, tmp_path: Path):
    file = tmp_path / "products.csv"
    file.write_text(f"sku,name,price\n{uuid.uuid4().hex},Imported,1.00\n")
    first, second = [await meshctl(mesh, "import", "products", str(file), "--currency", "GBP") for _ in "12"]
    assert (first.code, second.code) == (0, 0), first
    assert "1 rows: 1 created" in first.out
    assert "1 unchanged" in second.out
    missing = await meshctl(mesh, "import", "products", str(tmp_path / "none.csv"))
    assert "cannot be read" in missing.refusal
    elsewhere = await meshctl(
        mesh, "import", "products", str(file), "--currency=GBP", "--edge-url", "nowhere"
    )
    assert (elsewhere.code, "Not a URL of the mesh" in elsewhere.err) == (1, True)
