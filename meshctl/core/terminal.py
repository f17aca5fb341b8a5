"""The console on which commands print tables and trees."""

from rich.console import Console

# Wide enough for every column when the output goes to a file or a pipe.
_WIDTH_ELSEWHERE = 240


def console() -> Console:
    """Standard output, as wide as the terminal."""
    found = Console()
    return found if found.is_terminal else Console(width=_WIDTH_ELSEWHERE)
