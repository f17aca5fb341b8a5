"""Dump and restore, by which data reaches another version of PostgreSQL; and the folder of another version."""

import shutil
from pathlib import Path

from meshctl.core.folder import MeshFolder
from tests.e2e.terminal import meshctl
from tests.mesh import running_mesh


async def test_a_restored_mesh_has_everything_that_people_entered(tmp_path: Path) -> None:
    old, new, file = tmp_path / "old", tmp_path / "new", tmp_path / "dump"
    async with running_mesh(old) as mesh:
        user = await mesh.sign_up()
        assert "A mesh already runs on" in (await meshctl(old, "dump", str(file))).refusal
    (old / "objects/picture").write_text("seen")
    dumped = await meshctl(old, "dump", str(file))
    assert (dumped.code, file.stat().st_mode & 0o777) == (0, 0o600), dumped
    assert "Put the secrets.json of the mesh into" in (await meshctl(new, "restore", str(file))).refusal
    shutil.copy(old / "secrets.json", new)
    restored = await meshctl(new, "restore", str(file))
    assert restored.code == 0, restored
    assert "already" in (await meshctl(new, "restore", str(file))).refusal
    async with running_mesh(new) as mesh:
        token = await mesh.log_in(user.email, user.password)
        # What it was signed with before is still known, and the tables are the service's own.
        for known in (token, user.token):
            answer = await mesh.http.get("/v1/users/me", headers={"authorization": f"Bearer {known}"})
            assert answer.json()["id"] == user.id
    assert (new / "objects/picture").read_text() == "seen"


async def test_a_folder_of_another_postgresql_is_one_sentence_and_stays_as_it_is(tmp_path: Path) -> None:
    folder = MeshFolder(tmp_path)
    folder.prepare()
    folder.postgres.mkdir()
    (folder.postgres / "PG_VERSION").write_text("17\n")
    for command in (("up", "--port", "0"), ("dump", str(tmp_path / "file"))):
        ended = await meshctl(tmp_path, *command)
        assert ended.code == 1
        assert (
            f"The data in {folder.postgres} is of PostgreSQL 17, and this release has 18: write" in ended.err
        )
    assert [path.name for path in folder.postgres.iterdir()] == ["PG_VERSION"]


async def test_what_is_no_dump_is_one_sentence(tmp_path: Path) -> None:
    MeshFolder(tmp_path / "new").prepare()
    MeshFolder(tmp_path / "new").secrets().get("mesh_id")
    (tmp_path / "file").write_text("no archive")
    refusal = (await meshctl(tmp_path / "new", "restore", str(tmp_path / "file"))).refusal
    assert refusal.startswith(f"{tmp_path / 'file'} cannot be read as a file of `meshctl dump`")
    assert "There are no databases in" in (await meshctl(tmp_path / "new", "dump", "out")).refusal
