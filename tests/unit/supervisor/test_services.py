"""Which processes a mesh has, and where calls are sent."""

from meshctl.core.ports import Ports
from meshctl.mesh import services


def test_background_work_runs_in_the_servers_unless_it_is_given_processes_of_its_own():
    beside = services.workers(["catalog", "observer"], 2, Ports())
    assert [(worker.name, worker.role) for worker in beside] == [
        ("catalog-1", "all"),
        ("catalog-2", "all"),
        ("observer-1", "all"),
    ]
    apart = services.workers(["catalog", "observer"], 2, Ports(), background=1)
    assert [(worker.name, worker.role, worker.serves) for worker in apart] == [
        ("catalog-1", "server", True),
        ("catalog-2", "server", True),
        ("catalog-worker-1", "worker", False),
        ("observer-1", "all", True),
    ]
