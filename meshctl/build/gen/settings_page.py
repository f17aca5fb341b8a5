"""The reference page of settings, generated from the settings classes; a setting without a description is an error."""

import json
from collections.abc import Iterable, Iterator
from typing import Any

from pydantic_core import PydanticUndefined
from pydantic_settings import BaseSettings

from chassis.core import Settings
from meshctl.core import deployables, service_settings
from meshctl.edge.rendering import EdgeSettings

_NOTE = "<!-- Generated from the settings classes by scripts/gen; not edited by hand. -->"
_INTRODUCTION = """# Settings

A process reads its settings from environment variables once, when it starts. If one is not valid, the process does not
start, and a message names the variable. Lists and mappings are JSON. `./scripts/up` sets what a mesh on one
machine needs, and passes on settings from its own environment.
"""


def page() -> str:
    """Returns the page: settings of every service, of each service that has its own, and of the edge."""
    sections = [_NOTE, _INTRODUCTION, *_section("Every service", Settings, Settings.model_fields)]
    for name in deployables.deployables():
        own = service_settings.settings_of(name)
        if own is not Settings:
            sections += _section(name, own, [field for field in own.model_fields if field not in Settings.model_fields])
    return "\n".join([*sections, *_section("The edge", EdgeSettings, EdgeSettings.model_fields)])


def _section(title: str, settings: type[BaseSettings], names: Iterable[str]) -> Iterator[str]:
    yield f"## {title}\n"
    yield "| variable | default | meaning |\n| --- | --- | --- |"
    prefix = settings.model_config.get("env_prefix", "")
    for name in names:
        field = settings.model_fields[name]
        if not field.description:
            raise ValueError(f"The setting {settings.__name__}.{name} has no description: give its Field one.")
        meaning = field.description.replace("|", "\\|")
        yield f"| `{prefix}{name.upper()}` | {_default(field)} | {meaning} |"
    yield ""


def _default(field: Any) -> str:
    if field.default is PydanticUndefined:
        # A default that is computed at start, such as a secret, differs each time.
        return "required" if field.default_factory is None else "made at start"
    if field.default in ("", None):
        return "unset"
    return f"`{json.dumps(field.default, default=str)}`"
