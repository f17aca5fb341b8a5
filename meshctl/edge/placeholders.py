"""Fills placeholders in hand-written configuration."""

import re
from collections.abc import Mapping
from typing import Any

PLACEHOLDER = re.compile(r"\$\{([a-z0-9_.]+)\}")


def fill(node: Any, values: Mapping[str, Any]) -> Any:
    """Returns a copy of a YAML tree with every `${name}` that `values` holds replaced; others stay.

    A scalar that is one placeholder becomes the value, whatever its type; within a longer text, its text does. A list
    in the place of a list's item becomes that list's items.
    """
    match node:
        case dict():
            return {key: fill(value, values) for key, value in node.items()}
        case list():
            return [part for item in node for part in _items(item, fill(item, values))]
        case str():
            return _fill_text(node, values)
    return node


def unfilled(node: Any) -> set[str]:
    """Returns the names of all placeholders that a YAML tree still holds."""
    match node:
        case dict():
            return {name for value in node.values() for name in unfilled(value)}
        case list():
            return {name for item in node for name in unfilled(item)}
        case str():
            return set(PLACEHOLDER.findall(node))
    return set()


def _items(item: Any, filled: Any) -> list[Any]:
    return filled if isinstance(item, str) and isinstance(filled, list) else [filled]


def _fill_text(text: str, values: Mapping[str, Any]) -> Any:
    whole = PLACEHOLDER.fullmatch(text)
    if whole:
        return values.get(whole[1], text)
    return PLACEHOLDER.sub(lambda found: str(values.get(found[1], found[0])), text)
