"""What a person sees while the mesh starts."""

import io
from pathlib import Path

import pytest

from meshctl.core.folder import MeshFolder
from meshctl.mesh import welcome
from meshctl.mesh.progress import Progress
from meshctl.mesh.spinners import Spinners


def test_without_a_terminal_each_step_is_a_line_when_it_has_ended(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress()
    with progress.drawn() as terminal:
        assert terminal is None
        with progress.step("postgres"):
            assert capsys.readouterr().out == ""
        with pytest.raises(OSError, match="no"), progress.step("nats"):
            raise OSError("no")
    assert capsys.readouterr().out == "  ✓ postgres (0.0 s)\n  ✗ nats (0.0 s)\n"


def test_a_terminal_shows_what_runs_what_is_done_and_what_failed() -> None:
    spinners = Spinners(columns=60)
    spinners.console.file = io.StringIO()
    with spinners, spinners.step("postgres [17]"):
        spinners.say("nats ended [1]")
        with pytest.raises(OSError, match="no"), spinners.step("nats"):
            raise OSError("no")
    shown = spinners.console.file.getvalue()
    assert "nats ended [1]" in shown
    assert "postgres [17]" in shown
    assert "\x1b[32m✓\x1b[0m postgres" in shown
    assert "\x1b[31m✗\x1b[0m nats" in shown


def test_the_screen_has_the_password_only_when_it_is_given(tmp_path: Path) -> None:
    folder = MeshFolder(tmp_path / "a mesh")
    first, later = (
        welcome.text("http://127.0.0.1:8080", folder, "10 processes", word) for word in ("s3cret", "")
    )
    assert first.count("s3cret") == 1
    assert "s3cret" not in later
    assert later.count("/a mesh/dev.env'") == 2
    assert later.count("\n  # ") == 3
