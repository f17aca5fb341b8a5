"""`meshctl` as an operator runs it."""

import asyncio
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.mesh import Mesh


@dataclass(frozen=True)
class Ended:
    """How a command ended, and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def refusal(self) -> str:
        """The sentence of a command that failed as it should: no traceback, nothing on standard output."""
        assert (self.code, self.out) == (1, ""), self
        assert "Traceback" not in self.err
        return self.err.strip()

    @property
    def answer(self) -> Any:
        """The JSON that a command wrote."""
        assert self.code == 0, self
        return json.loads(self.out)


async def start(mesh: Mesh | Path, *arguments: str) -> asyncio.subprocess.Process:
    folder = mesh if isinstance(mesh, Path) else mesh.folder.root
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "meshctl", *arguments, "--data", str(folder)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def meshctl(mesh: Mesh | Path, *arguments: str, given: str = "") -> Ended:
    """Runs a command to its end, as an operator would."""
    process = await start(mesh, *arguments)
    out, err = await process.communicate(given.encode())
    assert process.returncode is not None
    return Ended(process.returncode, out.decode(), err.decode())
