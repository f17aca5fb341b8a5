"""The rooms of the chassis: each has a door, and nobody comes in by another way."""

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CHASSIS = ROOT / "chassis"
ROOMS = sorted(
    ".".join(door.parent.relative_to(ROOT).parts)
    for door in CHASSIS.rglob("__init__.py")
    if door.parent != CHASSIS
)
FRONT_DOORS = {"chassis", "chassis.process", "chassis.service"}
OUTSIDE = ("services", "meshctl", "bench", "sdk", "tests")


def imported(path: Path) -> Iterator[tuple[str, str]]:
    """(module, name) for each name that a file imports from the chassis."""
    for node in ast.walk(ast.parse(path.read_text())):
        if (
            isinstance(node, ast.ImportFrom)
            and node.level == 0
            and (node.module or "").split(".")[0] == "chassis"
        ):
            yield from ((str(node.module), alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names if alias.name.split(".")[0] == "chassis")


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_says_what_it_is_for_and_what_it_offers(room: str):
    door = importlib.import_module(room)
    assert door.__doc__
    assert door.__all__  # which the linter keeps sorted
    assert all(hasattr(door, name) for name in door.__all__)


def test_the_chassis_is_imported_through_its_doors_alone():
    files = [
        path for folder in OUTSIDE for path in (ROOT / folder).rglob("*.py") if "build" not in path.parts
    ]
    offered = {room: set(importlib.import_module(room).__all__) for room in ROOMS}
    wrong = [
        f"{path.relative_to(ROOT)}: from {module} import {name}"
        for path in files
        for module, name in imported(path)
        if module not in FRONT_DOORS and name not in offered.get(module, set())
    ]
    assert files
    assert wrong == []
