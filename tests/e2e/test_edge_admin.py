"""The edge as the supervisor starts it: its admin interface is a socket in the data folder, wherever that is."""

import asyncio
import os
import shutil
import stat
from pathlib import Path

from meshctl.core.folder import MeshFolder
from meshctl.core.ports import Ports
from meshctl.mesh.gateway import Gateway
from tests.patience import eventually


async def test_the_admin_socket_works_however_long_the_data_folder_s_path_is(
    tmp_path: Path, edge_certificates: Path
) -> None:
    folder = MeshFolder(tmp_path / ("long" * 30))
    shutil.copytree(edge_certificates, folder.certificates)
    ports = Ports()
    program = Gateway(folder, ports.take(), ports.take(), {}).program()
    envoy = await asyncio.create_subprocess_exec(
        *program.command,
        cwd="/",
        env={**os.environ, **program.environment},
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )

    async def ready() -> bool:
        try:
            return await program.ready()
        except OSError:
            return False

    try:
        await eventually(ready, within=30)
        assert stat.S_IMODE(folder.edge_admin.stat().st_mode) == 0o600
        assert stat.S_IMODE(folder.edge_admin.parent.stat().st_mode) & 0o077 == 0
    finally:
        envoy.terminate()
        await envoy.wait()
