"""The settings classes of the deployables, which import much: few commands need them."""

import importlib

from chassis.core import Settings, ValkeySettings
from meshctl.core.deployables import SERVICES, deployables


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
