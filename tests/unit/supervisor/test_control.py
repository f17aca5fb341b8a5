"""The control socket: progress, results, refusals."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from meshctl.core.failure import OperatorError
from meshctl.mesh import control
from meshctl.mesh.process import Say


async def answer(request: dict[str, Any], say: Say) -> Any:
    if request["command"] == "refuse":
        raise OperatorError("Not today.")
    say("working")
    return {"echo": request["command"]}


async def ask(path: Path, command: str, said: list[str]) -> Any:
    return await asyncio.to_thread(control.ask, path, {"command": command}, said.append)


async def test_progress_comes_before_the_result_and_a_long_path_will_do(tmp_path: Path) -> None:
    folder = tmp_path / ("deep" * 40)
    folder.mkdir()
    said: list[str] = []
    async with control.serving(folder / "control", answer):
        assert await ask(folder / "control", "status", said) == {"echo": "status"}
        assert (folder / "control").stat().st_mode & 0o777 == 0o600
    assert said == ["working"]


async def test_a_refusal_arrives_as_its_sentence(tmp_path: Path) -> None:
    async with control.serving(tmp_path / "control", answer):
        with pytest.raises(OperatorError, match=r"^Not today\.$"):
            await ask(tmp_path / "control", "refuse", [])


def test_without_a_supervisor_it_says_how_to_start_one(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match=r"No mesh runs on .*: start one with \./scripts/up, or"):
        control.ask(tmp_path / "control", {"command": "status"})
