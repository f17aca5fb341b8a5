"""Files that readers see complete or not at all."""

import os
from pathlib import Path


def write_private(path: Path, text: str | bytes) -> None:
    """Replaces `path` atomically with a file that only its owner may read."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(text.encode() if isinstance(text, str) else text)
    draft.replace(path)
