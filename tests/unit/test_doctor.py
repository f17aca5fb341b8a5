"""What `meshctl doctor` finds before a mesh runs."""

import socket
from datetime import timedelta
from pathlib import Path

import pytest

from meshctl.core.folder import MeshFolder
from meshctl.inspect import check_machine, check_mesh
from meshctl.inspect.finding import Finding
from meshctl.inspect.scrape import Sample
from meshctl.pki import certificates


@pytest.fixture
def folder(tmp_path: Path) -> MeshFolder:
    return MeshFolder(tmp_path)


def found(folder: MeshFolder) -> dict[str, Finding]:
    return {finding.subject: finding for finding in check_machine.findings(folder, runs=False)}


def test_a_taken_port_is_a_problem_with_what_to_do(folder: MeshFolder):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        folder.dev_env.write_text(f"EDGE_URL=http://127.0.0.1:{port}\n")
        finding = found(folder)["port"]
    assert (finding.state, finding.found) == ("problem", f"{port} cannot be used")
    assert finding.advice == f"Port {port} is taken: choose another with --port."
    assert found(folder)["port"] == Finding("port", "ok", f"{port} is free")


def test_a_certificate_that_expires_soon_is_found(folder: MeshFolder, monkeypatch: pytest.MonkeyPatch):
    certificates.issue(folder.certificates, ["catalog"])
    assert found(folder)["certificates"].state == "ok"

    monkeypatch.setattr(check_machine, "RENEWED_WITHIN", timedelta(days=365))
    finding = found(folder)["certificates"]
    assert (finding.state, finding.advice) == ("warning", "restart the mesh: `up` renews certificates")
    assert "that of catalog is the first to expire, in " in finding.found


def test_packages_that_are_not_those_of_the_files_are_found(
    folder: MeshFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / ".venv").mkdir()
    (tmp_path / "requirements").mkdir()
    (tmp_path / "requirements/runtime.txt").write_text("grpcio==1\n")
    (tmp_path / ".venv/runtime.installed").write_text("of another file\n")
    monkeypatch.setattr(check_machine, "ROOT", tmp_path)
    assert found(folder)["packages"].state == "problem"
    assert found(folder)["packages"].advice == "run ./scripts/setup runtime"


def test_no_mesh_is_a_warning(folder: MeshFolder):
    (finding,) = check_mesh.findings(folder, [])
    assert (finding.state, finding.advice) == ("warning", "start it with ./scripts/up")


def test_events_that_are_stuck_are_a_problem():
    stuck = [
        Sample("ordering", "outbox_lag_seconds", {"database": "ordering"}, 120.0),
        Sample("catalog", "consumer_lag_events", {"consumer": "catalog.release_stock"}, 5000.0),
        Sample(
            "catalog", "consumer_events_total", {"consumer": "catalog.release_stock", "outcome": "dead"}, 2.0
        ),
    ]
    states = {finding.subject: finding for finding in check_mesh._events(stuck)}
    assert (states["outbox"].state, states["outbox"].found) == (
        "problem",
        "the oldest unsent event is 120 s old",
    )
    assert states["consumers"].advice.startswith(
        "catalog.release_stock falls behind: see `meshctl logs catalog`"
    )
    assert states["dead letters"].advice == "see `meshctl events list`"
    assert {finding.state for finding in check_mesh._events([])} == {"ok"}


def test_a_process_that_is_not_healthy_says_where_to_look():
    state = {"name": "catalog-1", "healthy": False, "complaint": "it does not answer", "restarts": 3}
    sick, restarted = check_mesh._processes([state])
    assert (sick.state, sick.found) == ("problem", "it does not answer")
    assert "`meshctl logs catalog-1`" in sick.advice
    assert (restarted.state, restarted.found) == ("warning", "ended 3 times since `up`")
