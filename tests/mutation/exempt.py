"""What docs/mutation.md exempts: lines that are not broken, by pattern, and mutants that may survive, by name."""

import re
from pathlib import Path

from tests.mutation.mutants import Mutant

_PAGE = Path(__file__).parents[2] / "docs" / "mutation.md"
_LINES = re.compile(r"^- lines like `(.+?)`: ", re.MULTILINE)


class Exempt:
    """The page, as it was read when the run began."""

    def __init__(self) -> None:
        page = _PAGE.read_text()
        self._lines = [re.compile(pattern) for pattern in _LINES.findall(page)]
        self._words = " ".join(page.split())

    def is_left_alone(self, mutant: Mutant) -> bool:
        """Whether the line, or what it would become, is one that is not broken."""
        return any(pattern.search(f"{mutant.before} → {mutant.after}") for pattern in self._lines)

    def may_survive(self, mutant: Mutant) -> bool:
        """Whether the page lists the mutant; the name may be wrapped there."""
        return " ".join(mutant.name.split()) in self._words
