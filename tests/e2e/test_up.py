"""The one command: up, down, status, and what it refuses, each with one sentence."""

import asyncio
import json
import os
import pty
import re
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
from meshctl.core import deployables
from meshctl.core.folder import MeshFolder
from meshctl.core.polling import until
from meshctl.core.ports import Ports
from meshctl.mesh import accounts, control
from meshctl.mesh.program import launch_command
from meshctl.mesh.running import RunningMesh
from tests import parts
from tests.disks import mounted
from tests.mesh import ROOT, start_up
from tests.patience import eventually

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


async def test_what_up_says_to_try_works(detached: Path) -> None:
    tries = re.split(r"^  # .*$", (detached / "said").read_text(), flags=re.MULTILINE)[1:]
    assert len(tries) == 3

    def tried(command: str) -> str:
        shell = ["bash", "-euo", "pipefail", "-c", command]
        return subprocess.run(shell, capture_output=True, text=True, timeout=30, check=True).stdout

    products, login, trace = tries
    assert len(json.loads(tried(products))["data"]) == 3
    assert json.loads(tried(login))["token_type"] == "Bearer"

    async def arrived() -> bool:
        return "POST /v1/users/login" in await asyncio.to_thread(tried, trace)

    await eventually(arrived, within=30)


def test_up_shows_each_part_and_service_with_its_time(detached: Path) -> None:
    said = (detached / "said").read_text()
    for step in ("postgres", "nats", "valkey", "databases, roles, migrations", "catalog-1", "identity-1"):
        assert re.search(rf"^  ✓ {step} \(\d+\.\d s\)$", said, re.MULTILINE)


def test_the_password_is_shown_once_and_in_no_command(detached: Path) -> None:
    said = (detached / "said").read_text()
    assert said.count(known(detached)["ADMIN_PASSWORD"]) == 1
    assert said.index(known(detached)["ADMIN_PASSWORD"]) < said.index("Try it:")


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


SERVICES = tuple(f"{name}-1" for name in deployables.deployables())


@pytest.mark.parametrize("names", [("postgres",), ("nats",), ("valkey",), ("edge",), SERVICES])
def test_a_process_that_dies_is_started_again_and_that_is_said(
    detached: Path, names: tuple[str, ...]
) -> None:
    states = {state["name"]: state for state in control.ask(detached / "control", {"command": "status"})}
    for name in names:
        os.kill(states[name]["pid"], 9)
    for name in names:
        wait_until_said(detached, f"{name} is healthy again")
    log = (detached / "logs/mesh.log").read_text()
    again = {state["name"]: state for state in control.ask(detached / "control", {"command": "status"})}
    for name in names:
        assert f"{name} ended (signal 9)" in log
        assert again[name]["restarts"] == states[name]["restarts"] + 1


async def test_a_service_whose_events_wait_is_not_healthy(detached: Path) -> None:
    """An event is a minute old, and not to be published for an hour."""

    async def complaint() -> str:
        states = await asyncio.to_thread(control.ask, detached / "control", {"command": "status"})
        return str(next(state["complaint"] for state in states if state["name"] == "catalog-1"))

    async def late() -> bool:
        return (await complaint()).startswith("its oldest event has waited for ")

    async def well() -> bool:
        return not await complaint()

    url = RunningMesh.on(detached).database_urls["catalog"]
    async with asyncio.timeout(60):
        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
            await connection.execute(
                "UPDATE outbox SET published_at = NULL, created_at = now() - interval '1 minute', "
                "next_attempt_at = now() + interval '1 hour' WHERE position = (SELECT min(position) FROM outbox)"
            )
            await until(late)
            assert (await asyncio.to_thread(meshctl, "status", "--data", str(detached))).returncode == 1
            await connection.execute("UPDATE outbox SET next_attempt_at = NULL WHERE published_at IS NULL")
        await until(well)


def test_a_killed_supervisor_leaves_nothing_behind_and_the_next_up_has_all_data(
    detached: Path, port: int
) -> None:
    before = known(detached)
    states = control.ask(detached / "control", {"command": "status"})
    supervisor = psutil.Process(states[0]["pid"]).parent()
    assert supervisor is not None
    children = supervisor.children()
    # The next start meets what is left at that moment: processes that are about to end, and a lock of PostgreSQL.
    supervisor.kill()
    # The data folder is in the environment of whatever the person at this terminal runs.
    code = "import signal; signal.pause()"
    variables = {**os.environ, "PROTOMESH_DATA": str(detached)}
    with subprocess.Popen([sys.executable, "-c", code], env=variables) as bystander:
        again = meshctl("up", "--detach", "--port", str(port), PROTOMESH_DATA=str(detached))
        assert bystander.poll() is None
        bystander.kill()
    assert again.returncode == 0, again.stdout + again.stderr
    assert not any(child.is_running() for child in children)
    assert "sample" not in again.stdout
    assert before["ADMIN_PASSWORD"] not in again.stdout
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


@pytest.mark.parametrize(
    ("option", "name"),
    [("--postgres-url", "PostgreSQL"), ("--nats-url", "NATS"), ("--valkey-url", "Valkey")],
)
def test_a_part_that_does_not_answer_is_one_sentence(tmp_path: Path, option: str, name: str) -> None:
    port = Ports().take()
    url = f"scheme://127.0.0.1:{port}/0"
    up = meshctl("up", "--data", str(tmp_path), "--port", str(Ports().take()), option, url)
    assert up.returncode == 1
    assert up.stderr.endswith(f"{name} does not answer at 127.0.0.1:{port}: check its URL.\n")


def test_a_full_disk_is_one_sentence(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "64m") as disk:
        up = meshctl("up", "--data", str(disk / "mesh"), "--port", str(Ports().take()))
    assert up.returncode == 1
    assert up.stderr == f"The disk of {disk / 'mesh'} is full: free 300 MiB, or choose --data.\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become a user without rights")
@pytest.mark.parametrize(
    ("port", "owns", "sentence"),
    [
        ("80", True, "Port 80 needs more rights than this user has: choose a --port above 1023."),
        ("18080", False, "{} is not writable by this user: choose another folder with --data."),
    ],
)
def test_a_missing_right_is_one_sentence(tmp_path: Path, port: str, owns: bool, sentence: str) -> None:
    lowest = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")
    if port == "80" and lowest.exists() and int(lowest.read_text()) <= 80:
        pytest.skip("on this machine port 80 needs no rights")
    folder = tmp_path / "mesh"
    MeshFolder(folder).prepare()
    account = accounts.of_mesh(folder)
    for path in (folder, *folder.iterdir()) if owns else ():
        os.chown(path, account.uid, account.gid)
    command = (sys.executable, "-P", "-m", "meshctl", "up", "--data", str(folder), "--port", port)
    up = subprocess.run(
        launch_command(command, account),
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert up.returncode == 1
    assert up.stderr.strip() == sentence.format(folder)


async def one_is_refused(both: list[asyncio.subprocess.Process], said: str) -> None:
    """Waits until one of the two has ended with that sentence; the other one runs on, and is ended."""
    ends = [asyncio.ensure_future(one.communicate()) for one in both]
    async with asyncio.timeout(60):
        done, _ = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    refused = ends.index(done.pop())
    assert both[refused].returncode == 1
    assert said in ends[refused].result()[0].decode()
    assert both[1 - refused].returncode is None
    both[1 - refused].terminate()
    await ends[1 - refused]


async def test_of_two_that_start_at_once_on_a_port_one_is_refused(tmp_path: Path) -> None:
    """Envoy by itself would share the port, and both would say that they are up."""
    port = str(Ports().take())
    both = [await start_up(tmp_path / name, "--port", port) for name in ("one", "other")]
    await one_is_refused(both, f"Port {port} is taken: choose another with --port.")


async def test_of_two_that_start_at_once_on_a_folder_one_is_refused(tmp_path: Path) -> None:
    both = [await start_up(tmp_path / "mesh") for _ in range(2)]
    await one_is_refused(both, f"A mesh already runs on {tmp_path / 'mesh'}")


def test_a_mesh_whose_terminal_closes_drains(tmp_path: Path) -> None:
    """The system then sends SIGHUP, and nothing can be written to the terminal any more."""
    terminal, inner = pty.openpty()
    known = {name: value for name, value in os.environ.items() if not name.startswith("PROTOMESH_")}
    arguments = ("up", "--data", str(tmp_path), "--port", str(Ports().take()), "--no-sample-data")
    up = subprocess.Popen(
        ["setsid", "--ctty", sys.executable, "-P", "-m", "meshctl", *arguments],
        stdin=inner, stdout=inner, stderr=inner, env=known,
    )  # fmt: skip
    os.close(inner)
    said = b""
    while b"The mesh is up" not in said:
        said += os.read(terminal, 4096)
    pids = [state["pid"] for state in control.ask(tmp_path / "control", {"command": "status"})]
    os.close(terminal)
    up.wait(timeout=60)
    assert not any(psutil.pid_exists(pid) for pid in pids)
    # PostgreSQL that is killed leaves it behind.
    assert not (tmp_path / "postgres/postmaster.pid").exists()
    assert "shut" in (tmp_path / "logs/nats.log").read_text().lower()


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
