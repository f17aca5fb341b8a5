"""What a person may have meant by a name that does not exist."""

import difflib
from collections.abc import Iterable


def meant(misspelt: str, known: Iterable[str]) -> list[str]:
    """Returns the names that are spelt nearly so, the closest first."""
    by_lower = {name.lower(): name for name in known}
    return [by_lower[lower] for lower in difflib.get_close_matches(misspelt.lower(), by_lower)]


def among(misspelt: str, known: Iterable[str]) -> str:
    """Returns the rest of a sentence that refuses a name: what was meant, or all names."""
    names = sorted(known)
    close = meant(misspelt, names)
    return f"did you mean {' or '.join(close)}?" if close else f"there are {', '.join(names)}."
