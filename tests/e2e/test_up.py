"""The one command: up, down, status, and what it refuses, each with one sentence."""

import asyncio
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import psycopg
import pytest

from chassis import process
from meshctl.core.ports import Ports
from meshctl.mesh import control
from meshctl.mesh.running import RunningMesh
from tests import parts

HEALTHY_BYTES = 1.2e9


def meshctl(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a command of meshctl to its end."""
    command = [sys.executable, "-P", "-m", "meshctl", *arguments]
    known = {name: value for name, value in os.environ.items() if not name.startswith("PROTOMESH_")}
    return subprocess.run(
        command, env={**known, **environment}, capture_output=True, text=True, timeout=150, check=False
    )


@pytest.fixture(scope="module")
def port() -> int:
    return Ports().take()


@pytest.fixture(scope="module")
def detached(tmp_path_factory: pytest.TempPathFactory, port: int) -> Iterator[Path]:
    """The data folder of a mesh that was brought up with --detach and sample data."""
    folder = tmp_path_factory.mktemp("up")
    up = meshctl("up", "--detach", "--data", str(folder), "--port", str(port))
    assert up.returncode == 0, up.stdout + up.stderr
    (folder / "said").write_text(up.stdout)
    yield folder
    meshctl("down", "--data", str(folder))


def known(folder: Path) -> dict[str, str]:
    return dict(line.split("=", 1) for line in (folder / "dev.env").read_text().splitlines())


def test_up_writes_the_url_and_the_administrator_to_a_private_file(detached: Path, port: int) -> None:
    assert (detached / "dev.env").stat().st_mode & 0o777 == 0o600
    assert (detached / "secrets.json").stat().st_mode & 0o777 == 0o600
    assert known(detached)["EDGE_URL"] == f"http://127.0.0.1:{port}"
    assert known(detached).keys() >= {"EDGE_URL", "ADMIN_EMAIL", "ADMIN_PASSWORD"}


def test_the_curl_lines_that_up_prints_work(detached: Path) -> None:
    said = (detached / "said").read_text()
    lines = [line.strip() for line in said.partition("Try it:")[2].splitlines() if line.strip()]
    assert len(lines) == 3
    script = "set -e\n" + "\necho\n".join(lines)
    shell = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=30, check=True)
    products, me = shell.stdout.split("\n\n")
    assert len(json.loads(products)["data"]) == 3
    assert json.loads(me)["role"] == "admin"


def test_sample_data_can_be_searched_and_bought(detached: Path) -> None:
    answer = httpx.get(f"{known(detached)['EDGE_URL']}/v1/products?search=heart&limit=5", trust_env=False)
    assert answer.status_code == 200
    assert len(answer.json()["data"]) >= 3
    assert all(product["in_stock"] for product in answer.json()["data"])


def test_status_shows_each_process_with_health_port_memory_and_uptime(detached: Path) -> None:
    status = meshctl("status", "--data", str(detached))
    assert status.returncode == 0, status.stderr
    rows = {line.split()[0]: line.split() for line in status.stdout.splitlines() if line.strip()}
    for name in ("postgres", "nats", "valkey", "edge", "catalog-1", "identity-1", "ordering-1", "projects-1"):
        assert rows[name][1] == "healthy"
        assert "MiB" in rows[name]


def test_a_service_runs_with_what_makes_grpc_fast(detached: Path) -> None:
    states = control.ask(detached / "control", {"command": "status"})
    catalog = psutil.Process(next(state["pid"] for state in states if state["name"] == "catalog-1"))
    assert process.ENVIRONMENT.items() <= catalog.environ().items()
    threads = {os.sched_getscheduler(thread.id) for thread in catalog.threads()}
    assert threads == {os.SCHED_BATCH}


def test_all_processes_together_take_less_than_1200_megabytes(detached: Path) -> None:
    states = control.ask(detached / "control", {"command": "status"})
    assert sum(state["memory"] for state in states) < HEALTHY_BYTES


async def test_a_service_reaches_its_own_database_and_no_other(detached: Path) -> None:
    url = RunningMesh.on(detached).database_urls["catalog"]
    async with await psycopg.AsyncConnection.connect(url) as connection:
        assert await (await connection.execute("SELECT count(*) FROM products")).fetchone()
    with pytest.raises(psycopg.OperationalError, match="permission denied"):
        await psycopg.AsyncConnection.connect(url.rpartition("/")[0] + "/protomesh_identity")
    with pytest.raises(psycopg.OperationalError, match="permission denied"):
        await psycopg.AsyncConnection.connect(url.rpartition("/")[0] + "/postgres")


def test_a_second_up_on_the_same_data_is_refused(detached: Path) -> None:
    second = meshctl("up", "--data", str(detached), "--port", str(Ports().take()))
    assert second.returncode == 1
    assert second.stderr == f"A mesh already runs on {detached}: stop it with ./scripts/down.\n"


def test_a_process_that_dies_is_started_again_and_that_is_said(detached: Path) -> None:
    pid = next(
        s["pid"] for s in control.ask(detached / "control", {"command": "status"}) if s["name"] == "nats"
    )
    os.kill(pid, 9)
    wait_until_said(detached, "nats is healthy again")
    assert "nats ended (signal 9)" in (detached / "logs/mesh.log").read_text()
    states = control.ask(detached / "control", {"command": "status"})
    assert next(state["restarts"] for state in states if state["name"] == "nats") == 1


def test_a_killed_supervisor_leaves_nothing_behind_and_the_next_up_has_all_data(
    detached: Path, port: int
) -> None:
    before = known(detached)
    states = control.ask(detached / "control", {"command": "status"})
    supervisor = psutil.Process(states[0]["pid"]).parent()
    assert supervisor is not None
    children = supervisor.children()
    supervisor.kill()
    psutil.wait_procs(children, timeout=10)
    assert not any(child.is_running() for child in children)

    again = meshctl("up", "--detach", "--data", str(detached), "--port", str(port))
    assert again.returncode == 0, again.stdout + again.stderr
    assert "sample" not in again.stdout
    assert known(detached) == before
    login = {"email": before["ADMIN_EMAIL"], "password": before["ADMIN_PASSWORD"]}
    assert httpx.post(f"{before['EDGE_URL']}/v1/users/login", json=login, trust_env=False).status_code == 200


def test_down_stops_everything_and_frees_the_port(detached: Path, port: int) -> None:
    pids = [state["pid"] for state in control.ask(detached / "control", {"command": "status"})]
    down = meshctl("down", "--data", str(detached))
    assert down.returncode == 0
    assert down.stdout == "The mesh is down.\n"
    assert not any(psutil.pid_exists(pid) for pid in pids)
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0


def test_down_without_a_mesh_says_so(tmp_path: Path) -> None:
    down = meshctl("down", "--data", str(tmp_path))
    assert down.returncode == 0
    assert down.stdout == f"No mesh runs on {tmp_path}.\n"


def test_a_taken_port_is_one_sentence(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        up = meshctl("up", "--data", str(tmp_path / "mesh"), "--port", str(port))
    assert up.returncode == 1
    assert up.stderr == f"Port {port} is taken: choose another with --port.\n"


def test_a_data_folder_that_is_a_file_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "mesh").touch()
    up = meshctl("up", "--data", str(tmp_path / "mesh"))
    assert up.returncode == 1
    assert up.stderr == f"{tmp_path / 'mesh'} is not a folder: choose another --data.\n"


def test_a_postgresql_that_does_not_answer_is_one_sentence(tmp_path: Path) -> None:
    port = Ports().take()
    url = f"postgresql://postgres@127.0.0.1:{port}/postgres"
    up = meshctl("up", "--data", str(tmp_path), "--port", str(Ports().take()), "--postgres-url", url)
    assert up.returncode == 1
    assert up.stderr == f"PostgreSQL does not answer at 127.0.0.1:{port}: check its URL.\n"


def test_a_password_among_the_arguments_is_refused(tmp_path: Path) -> None:
    for option, url in {"postgres": "postgresql://me:secret@pg/db", "nats": "nats://secret@nats"}.items():
        up = meshctl("up", "--data", str(tmp_path), f"--{option}-url", url)
        assert up.returncode == 1
        assert up.stderr.endswith(f"give the URL with its password as PROTOMESH_{option.upper()}_URL.\n")


async def test_parts_that_run_elsewhere_are_used_by_one_mesh_instead_of_the_embedded_ones(
    tmp_path: Path,
) -> None:
    async with (
        parts.running_postgres(tmp_path) as postgres_url,
        parts.running_nats(tmp_path) as nats_url,
        parts.running_valkey(tmp_path) as valkey_url,
    ):
        urls = {
            "PROTOMESH_POSTGRES_URL": postgres_url,
            "PROTOMESH_NATS_URL": nats_url,
            "PROTOMESH_VALKEY_URL": valkey_url,
        }
        arguments = ("--data", str(tmp_path / "mesh"), "--port", str(Ports().take()))
        up = await asyncio.to_thread(meshctl, "up", "--detach", *arguments, **urls)
        try:
            assert up.returncode == 0, up.stdout + up.stderr
            states = control.ask(tmp_path / "mesh/control", {"command": "status"})
            assert not {state["name"] for state in states} & {"postgres", "nats", "valkey"}
            other = ("--data", str(tmp_path / "other"), "--port", str(Ports().take()))
            refused = await asyncio.to_thread(meshctl, "up", "--detach", *other, **urls)
            assert (refused.returncode, refused.stdout.count("serves another mesh")) == (1, 1)
        finally:
            await asyncio.to_thread(meshctl, "down", "--data", str(tmp_path / "mesh"))


def wait_until_said(folder: Path, text: str) -> None:
    """Follows the supervisor's log until it says so; the test's time limit is that of the follower."""
    command = ["timeout", "30", "sh", "-c", f"tail -n +1 -F {folder}/logs/mesh.log | grep -q -m1 '{text}'"]
    subprocess.run(command, check=True)
