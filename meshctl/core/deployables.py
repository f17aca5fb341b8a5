"""The deployables of the mesh, read from the folders of services/."""

import importlib
from pathlib import Path

from chassis.core import Settings, ValkeySettings

SERVICES = Path(__file__).parents[2] / "services"
# People with meshctl hold certificates too, as does Envoy: to try an RPC, and to administer the mesh.
PEOPLE = ("developer", "operator")


def deployables() -> list[str]:
    """The names of all deployables: every service with an entry point."""
    return sorted(entry.parent.name for entry in SERVICES.glob("*/__main__.py"))


def with_database() -> list[str]:
    """The deployables that own a database: those with migrations."""
    return [name for name in deployables() if any((SERVICES / name / "migrations").glob("[0-9]*.py"))]


def with_valkey() -> list[str]:
    """The deployables that use Valkey, as their settings say."""
    return [name for name in deployables() if issubclass(settings_of(name), ValkeySettings)]


def settings_of(name: str) -> type[Settings]:
    """The settings class of a deployable: its own, if it has one."""
    if not (SERVICES / name / "settings.py").exists():
        return Settings
    module = importlib.import_module(f"services.{name}.settings")
    (own,) = (
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Settings) and value.__module__ == module.__name__
    )
    return own


def workloads() -> list[str]:
    return [*deployables(), "edge", *PEOPLE]
