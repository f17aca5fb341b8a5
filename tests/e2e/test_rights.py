"""Rights: a mesh starts in a closed folder as root and as an ordinary user, and root's programs keep no rights."""

import json
import os
import pwd
from pathlib import Path

import psutil
import pytest

from meshctl.mesh import accounts
from meshctl.mesh.program import Account
from tests.mesh import Mesh, running_mesh

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, and to change accounts")


def rights(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


async def test_no_program_of_a_mesh_that_root_starts_has_rights(mesh: Mesh) -> None:
    assert mesh.folder.root.parent.parent.stat().st_mode & 0o777 == 0o700
    programs = [psutil.Process(state["pid"]) for state in mesh.status()]
    family = [*programs, *(child for program in programs for child in program.children(recursive=True))]
    assert len(family) > 10
    for process in family:
        try:
            found = rights(process.pid)
        except OSError:
            # PostgreSQL starts and ends workers of its own all the time.
            continue
        assert set(found["Uid"].split()) == {str(accounts.of_mesh(mesh.folder.root).uid)}, process
        assert {found[f"Cap{kind}"] for kind in ("Inh", "Prm", "Eff", "Amb")} == {"0" * 16}, process
        assert (found["Groups"], found["NoNewPrivs"]) == ("", "1"), process


async def test_no_secret_stands_in_the_arguments_of_a_program(mesh: Mesh) -> None:
    secrets = json.loads((mesh.folder.root / "secrets.json").read_text())
    del secrets["mesh_id"]
    arguments = "\n".join(" ".join(psutil.Process(state["pid"]).cmdline()) for state in mesh.status())
    assert [name for name, secret in secrets.items() if secret in arguments] == []


async def test_a_mesh_starts_as_an_ordinary_user_in_a_folder_closed_to_others(tmp_path: Path) -> None:
    user = pwd.getpwnam("nobody")
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    accounts.give(home, Account(user.pw_uid, user.pw_gid))
    passages = (*accounts.needed(home), str(home.parent))
    account = Account(user.pw_uid, user.pw_gid, passages=passages)
    tmp_path.chmod(0o711)
    async with running_mesh(home / "mesh", account=account) as mesh:
        assert (await mesh.sign_up()).token
        assert {psutil.Process(state["pid"]).username() for state in mesh.status()} == {"nobody"}
