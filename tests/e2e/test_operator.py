"""What an operator does at the terminal: status, audit records, imports; and the answer where no mesh runs."""

import asyncio
import json
import os
import signal
import sys
import uuid
from pathlib import Path

import pytest

from tests.e2e.terminal import meshctl, start
from tests.mesh import Mesh
from tests.patience import eventually


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


async def test_top_shows_what_was_called_meanwhile(mesh: Mesh) -> None:
    looking = await start(mesh, "top", "--json", "--seconds", "5")
    async with asyncio.timeout(60):
        while looking.returncode is None:
            assert (await mesh.http.get("/v1/products")).status_code == 200
            await asyncio.wait([asyncio.ensure_future(looking.wait())], timeout=0.05)
    assert looking.stdout is not None
    rows = {row["rpc"]: row for row in json.loads(await looking.stdout.read())}
    row = rows["ProductService/ListProducts"]
    assert row["service"] == "catalog"
    assert row["rate"] > 0
    assert row["errors"] == 0
    assert 0 < row["p50"] <= row["p95"]
    table = await meshctl(mesh, "top", "--once", "--seconds", "0.2")
    assert table.code == 0


async def test_the_doctor_finds_nothing_wrong_with_a_healthy_mesh(mesh: Mesh) -> None:
    await mesh.healthy()
    found = {one["subject"]: one for one in json.loads((await meshctl(mesh, "doctor", "--json")).out)}
    for subject in ("certificates", "processes", "edge", "clocks", "outbox"):
        assert found[subject]["state"] == "ok", found[subject]
    assert found["processes"]["found"] == f"all {len(mesh.status())} are healthy"


async def test_the_logs_tell_of_a_request_by_its_trace(mesh: Mesh) -> None:
    trace_id = (await mesh.http.get("/v1/products")).headers["trace-id"]

    async def written() -> bool:
        return "GET /v1/products 200 in " in (await meshctl(mesh, "logs", "--trace", trace_id)).out

    # The edge writes its log every ten seconds.
    await eventually(written, within=30)


async def test_the_url_is_printed_for_other_programs(mesh: Mesh) -> None:
    assert (await meshctl(mesh, "open")).out == f"{mesh.edge_url}\n"


async def test_status_and_rpcs_come_as_json(mesh: Mesh) -> None:
    states = (await meshctl(mesh, "status", "--json")).answer
    assert {state["name"] for state in states} == {state["name"] for state in mesh.status()}
    (rpc,) = (await meshctl(mesh, "call", "--list", "PlaceOrder", "--json")).answer
    assert (rpc["rpc"], rpc["deployable"]) == ("protomesh.ordering.v1.OrderService/PlaceOrder", "ordering")
    assert isinstance((await meshctl(mesh, "events", "list", "--json")).answer, list)
    assert isinstance((await meshctl(mesh, "trace", "--list", "--json")).answer, list)


async def test_a_probe_tells_whether_a_service_serves(mesh: Mesh) -> None:
    (state,) = (state for state in mesh.status() if state["name"] == "catalog-1")
    variables = {**os.environ, "PROTOMESH_TLS_DIRECTORY": str(mesh.folder.certificates)}

    async def probed(service: str) -> int:
        command = (sys.executable, "-P", "-m", "meshctl", "probe", service, "--port", str(state["port"]))
        return await (await asyncio.create_subprocess_exec(*command, env=variables)).wait()

    assert await probed("catalog") == 0
    # The certificate is that of another service.
    assert await probed("identity") == 1
