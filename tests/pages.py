"""The fenced blocks of the documentation, as tests run them."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# What a reader may copy; other blocks are drawings, answers and configuration of other programs.
RUNNABLE = ("sh", "python", "proto")
# What stands above a block that is not run, for readers of the source.
_MARK = re.compile(r"<!-- not run: (.+) -->")
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block: its page, the line of its fence, its language, and why it is not run ("" when it is)."""

    page: str
    line: int
    language: str
    text: str
    not_run: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks() -> list[Block]:
    """All blocks that a reader may copy, page by page."""
    written = (path for path in (ROOT / "docs").rglob("*.md") if "reference" not in path.parts)
    pages = [ROOT / "README.md", ROOT / "sdk/python/README.md", *sorted(written)]
    return [block for page in pages for block in _of(page) if block.language in RUNNABLE]


def _of(page: Path) -> Iterator[Block]:
    text = page.read_text()
    for fence in _FENCE.finditer(text):
        before = text[: fence.start()].splitlines()
        mark = _MARK.fullmatch(before[-1]) if before else None
        yield Block(str(page.relative_to(ROOT)), len(before) + 1, fence[1], fence[2], mark[1] if mark else "")
