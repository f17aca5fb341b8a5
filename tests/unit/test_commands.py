"""The command line of meshctl itself: its help, its errors, its completion, and what it imports."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import typer

import meshctl
from meshctl.__main__ import COMMANDS, load

ROOT = Path(__file__).parents[2]


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PROTOMESH_")}
    return subprocess.run(
        [sys.executable, "-P", "-m", "meshctl", *arguments],
        env={**kept, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_help_shows_every_command_in_its_group():
    shown = run("--help").stdout
    assert all(f"─ {entry.panel} ─" in shown for entry in COMMANDS.values())
    assert all(f"│ {name} " in shown for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_says_the_same_in_the_table_and_at_the_command(name: str):
    assert (load(name).help or "").split("\n\n")[0] == COMMANDS[name].help


def test_the_help_imports_no_command():
    script = "import sys; sys.argv = ['meshctl', '--help']\nfrom meshctl.__main__ import main\n"
    script += (
        "try: main()\nexcept SystemExit: print(sorted(name for name in sys.modules if 'meshctl.' in name))"
    )
    said = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True, check=True)
    assert said.stdout.splitlines()[-1] == "['meshctl.__main__', 'meshctl.core', 'meshctl.core.failure']"


@pytest.mark.parametrize("name", ["down", "status", "restart", "open", "logs", "top"])
def test_a_command_that_asks_the_supervisor_or_reads_files_imports_no_grpc(name: str):
    script = f"import sys\nfrom meshctl.__main__ import load\nload({name!r})\nsys.exit('grpc' in sys.modules)"
    assert subprocess.run([sys.executable, "-P", "-c", script], check=False).returncode == 0


def test_the_version_is_that_of_the_project():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert meshctl.__version__ == project["version"]
    assert run("--version").stdout == f"meshctl {project['version']}\n"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ("stauts",),
            "No such command 'stauts'. Did you mean 'status', 'restart'? See `meshctl --help`.",
        ),
        (("events", "lst"), "No such command 'lst'. Did you mean 'list'? See `meshctl events --help`."),
        (
            ("status", "--dta", "x"),
            "No such option: --dta (Possible options: --data). See `meshctl status --help`.",
        ),
        (("restart",), "Missing argument 'service'. See `meshctl restart --help`."),
    ],
)
def test_a_usage_error_is_one_line(arguments: tuple[str, ...], sentence: str):
    said = run(*arguments)
    assert (said.returncode, said.stdout, said.stderr) == (2, "", sentence + "\n")


def test_a_misspelt_rpc_gets_a_suggestion():
    said = run("call", "ListProduct")
    assert said.returncode == 1
    assert said.stderr.startswith("'ListProduct' names no RPC: did you mean ListProducts or ")


def test_a_misspelt_service_gets_a_suggestion():
    said = run("top", "catlog")
    assert (said.returncode, said.stderr) == (1, "There is no service 'catlog': did you mean catalog?\n")


def test_ctrl_c_is_one_word(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    from meshctl import __main__ as command_line

    def interrupted() -> None:
        raise KeyboardInterrupt

    app = typer.Typer()
    app.command()(interrupted)
    monkeypatch.setattr(command_line, "application", lambda: app)
    monkeypatch.setattr(sys, "argv", ["meshctl"])
    with pytest.raises(SystemExit) as ended:
        command_line.main()
    assert ended.value.code == 130
    assert capsys.readouterr().err == "Interrupted.\n"


def test_the_shell_completes_commands_options_and_services():
    def completed(words: str) -> list[str]:
        count = str(len(words.split()) - (not words.endswith(" ")))
        asked = {"_MESHCTL_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": count}
        return run(**asked).stdout.split()

    assert completed("meshctl sta") == ["status"]
    assert "--json" in completed("meshctl status --j")
    assert completed("meshctl restart cat") == ["catalog"]
    assert completed("meshctl events re") == ["replay", "rebuild"]


def test_the_script_runs_it_from_any_folder(tmp_path: Path):
    for program in (ROOT / "bin/meshctl", ROOT / ".venv/bin/meshctl"):
        said = subprocess.run(
            [program, "--version"], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        assert said.stdout == f"meshctl {meshctl.__version__}\n"


def test_down_of_what_is_down_is_fine(tmp_path: Path):
    down = run("down", "--data", str(tmp_path))
    assert (down.returncode, down.stdout, down.stderr) == (0, f"No mesh runs on {tmp_path}.\n", "")


def test_a_folder_that_does_not_exist_is_refused(tmp_path: Path):
    folder = tmp_path / "misspelt"
    down = run("down", "--data", str(folder))
    assert down.returncode == 1
    assert down.stderr == f"There is no folder {folder}: name the data folder of the mesh with --data.\n"
    status = run("status", "--data", str(folder))
    assert status.stderr.startswith(f"No mesh runs on {folder}: start one with ./scripts/up, or name")
