"""Which PostgreSQL, NATS and Valkey a mesh uses: its own embedded ones, or those that a URL names."""

import asyncio
from urllib.parse import urlsplit

from meshctl.core.failure import OperatorError
from meshctl.core.folder import MeshFolder
from meshctl.core.ports import Ports
from meshctl.mesh import claims
from meshctl.mesh.options import Options
from meshctl.mesh.parts import nats, postgres, valkey
from meshctl.mesh.program import Program

DEFAULT_PORTS = {"PostgreSQL": 5432, "NATS": 4222, "Valkey": 6379}


class Parts:
    """The parts of one mesh, and the URLs by which it reaches them."""

    def __init__(self, options: Options, folder: MeshFolder, ports: Ports) -> None:
        self._folder = folder
        self._secrets = folder.secrets()
        self._given = {
            "PostgreSQL": options.postgres_url,
            "NATS": options.nats_url,
            "Valkey": options.valkey_url,
        }
        self._ports = {name: ports.take() for name in self._given}
        self._monitor = ports.take()
        self.postgres_url = options.postgres_url or postgres.url(*self._own("PostgreSQL"))
        self.nats_url = options.nats_url or nats.url(*self._own("NATS"))
        self.valkey_url = options.valkey_url or valkey.url(*self._own("Valkey"))
        self.objects_url = options.objects_url or folder.objects.as_uri()

    async def programs(self) -> list[Program]:
        """The embedded parts: those for which no URL was given."""
        programs = []
        if not self._given["PostgreSQL"]:
            programs.append(await postgres.program(self._folder.postgres, *self._own("PostgreSQL")))
        if not self._given["NATS"]:
            programs.append(nats.program(self._folder.nats, *self._own("NATS"), self._monitor))
        if not self._given["Valkey"]:
            programs.append(valkey.program(self._folder.valkey, *self._own("Valkey")))
        return programs

    async def reachable(self) -> None:
        """Raises OperatorError when a part that was given as a URL does not answer, or serves another mesh."""
        for name, url in self._given.items():
            if url:
                await _require_answer(name, url)
        if url := self._given["NATS"]:
            await claims.claim_nats(url, self._folder.mesh_id)
        if url := self._given["Valkey"]:
            await claims.claim_valkey(url, self._folder.mesh_id)

    def _own(self, name: str) -> tuple[int, str]:
        return self._ports[name], self._secrets.get(name.lower())


async def _require_answer(name: str, url: str) -> None:
    address = urlsplit(url.partition(",")[0])
    host, port = address.hostname or "", address.port or DEFAULT_PORTS[name]
    try:
        async with asyncio.timeout(5):
            _, writer = await asyncio.open_connection(host, port)
            writer.close()
    except (OSError, TimeoutError):
        raise OperatorError(f"{name} does not answer at {host}:{port}: check its URL.") from None
