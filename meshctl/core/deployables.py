"""The deployables of the mesh, read from the folders of services/."""

from pathlib import Path

SERVICES = Path(__file__).parents[2] / "services"
# People with meshctl hold certificates too, as does Envoy: to try an RPC, and to administer the mesh.
PEOPLE = ("developer", "operator")


def deployables() -> list[str]:
    """The names of all deployables: every service with an entry point."""
    return sorted(entry.parent.name for entry in SERVICES.glob("*/__main__.py"))


def with_database() -> list[str]:
    """The deployables that own a database: those with migrations."""
    return [name for name in deployables() if any((SERVICES / name / "migrations").glob("[0-9]*.py"))]


def workloads() -> list[str]:
    return [*deployables(), "edge", *PEOPLE]
