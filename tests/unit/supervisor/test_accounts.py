"""Rights: what root starts runs as an account without any, also in folders that are closed to it."""

import asyncio
import dataclasses
import os
from pathlib import Path

import pytest

from meshctl.core.failure import OperatorError
from meshctl.core.folder import MeshFolder
from meshctl.mesh import accounts
from meshctl.mesh.program import CAP_DAC_READ_SEARCH, Account, launch_command

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root changes accounts")

STRANGER = 60577


@pytest.fixture
def closed(tmp_path: Path) -> Path:
    """A folder that only root may enter, with an open one in it that has a file."""
    folder = tmp_path / "closed"
    (folder / "open").mkdir(parents=True)
    (folder / "open/file").touch(mode=0o644)
    (folder / "secret").touch(mode=0o644)
    folder.chmod(0o700)
    return folder


async def succeeds(account: Account, *command: str) -> bool:
    child = await asyncio.create_subprocess_exec(
        *launch_command(("/usr/bin/env", *command), account), stderr=asyncio.subprocess.DEVNULL
    )
    return await child.wait() == 0


async def test_a_passage_reaches_a_folder_that_is_closed_and_nothing_beside_it(closed: Path) -> None:
    account = Account(STRANGER, STRANGER, passages=(str(closed / "open"),))
    assert await succeeds(account, "test", "-r", str(closed / "open/file"))
    assert not await succeeds(account, "test", "-e", str(closed / "secret"))
    assert not await succeeds(account, "touch", str(closed / "made"))
    assert not await succeeds(account, "cat", "/etc/shadow")
    # The view is the program's own.
    assert (closed / "secret").exists()


async def test_where_views_are_forbidden_a_capability_lets_it_through(closed: Path) -> None:
    """PostgreSQL asks by access(2), which has rules of its own."""
    account = Account(STRANGER, STRANGER, 1 << CAP_DAC_READ_SEARCH)
    assert await succeeds(account, "test", "-r", str(closed / "open/file"))
    assert not await succeeds(account, "touch", str(closed / "open/made"))


async def test_a_program_cannot_regain_rights(closed: Path) -> None:
    for wanted in (r"NoNewPrivs:\s1", r"CapPrm:\s0{16}", r"CapAmb:\s0{16}"):
        assert await succeeds(Account(STRANGER, STRANGER), "grep", "-qE", wanted, "/proc/self/status")


def test_the_account_of_a_mesh_has_no_name_and_stays_the_same(tmp_path: Path) -> None:
    folder = MeshFolder(tmp_path)
    folder.prepare()
    account = accounts.of_mesh(tmp_path)
    assert account.uid in accounts.UNUSED
    assert account.capabilities == 0
    accounts.of_mesh.cache_clear()
    assert accounts.of_mesh(tmp_path) == account


def test_a_data_folder_that_nobody_can_reach_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accounts, "_reaches", lambda *_: False)
    accounts.of_mesh.cache_clear()
    with pytest.raises(OperatorError, match=r"^No program of the mesh runs as root"):
        accounts.of_mesh(tmp_path)


async def test_the_programs_read_their_certificates_and_no_key_that_is_not_for_them(tmp_path: Path) -> None:
    folder, account = MeshFolder(tmp_path), Account(STRANGER, STRANGER)
    folder.prepare()
    accounts.hand_over(folder, account)
    for name in ("ca.key", "catalog.key", "developer.key"):
        (folder.certificates / name).touch(mode=0o600)
    accounts.hand_over(folder, account)
    inside = dataclasses.replace(account, passages=(str(tmp_path),))
    assert await succeeds(inside, "test", "-r", str(folder.certificates / "catalog.key"))
    assert not await succeeds(inside, "test", "-w", str(folder.certificates / "catalog.key"))
    for name in ("ca.key", "developer.key"):
        assert not await succeeds(inside, "test", "-r", str(folder.certificates / name))


def test_folders_of_an_earlier_account_are_taken_over(tmp_path: Path) -> None:
    folder = MeshFolder(tmp_path)
    folder.prepare()
    (folder.nats / "jetstream").mkdir(parents=True)
    (folder.nats / "jetstream/block").touch(mode=0o600)
    accounts.hand_over(folder, Account(STRANGER, STRANGER))
    assert (folder.nats / "jetstream/block").stat().st_uid == STRANGER
