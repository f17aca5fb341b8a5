"""The console on which commands print tables and trees."""

import json
from typing import Any

from rich.console import Console

# Wide enough for every column when the output goes to a file or a pipe.
_WIDTH_ELSEWHERE = 240


def console() -> Console:
    """Standard output, as wide as the terminal."""
    found = Console()
    return found if found.is_terminal else Console(width=_WIDTH_ELSEWHERE)


def print_json(value: Any) -> None:
    """Writes a value for other programs."""
    print(json.dumps(value, indent=2, default=str, ensure_ascii=False))
