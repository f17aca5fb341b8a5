"""Which PostgreSQL, NATS and Valkey a mesh uses: its own embedded ones, or those that a URL names."""

import asyncio
from collections.abc import Iterable
from urllib.parse import urlsplit

from meshctl.core import deployables, service_settings
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
        self.nats_url = self.nats_url_of(nats.OPERATOR)
        self.valkey_url = self.valkey_url_of(valkey.OPERATOR)
        self.objects_url = options.objects_url or folder.objects.as_uri()

    def nats_url_of(self, user: str) -> str:
        """The URL for a service or the operator: the one that was given, or the user's own at the embedded NATS."""
        return self._given["NATS"] or nats.url(self._ports["NATS"], user, self._password("nats", user))

    def valkey_url_of(self, user: str) -> str:
        """The URL for a service or the operator: the one that was given, or the user's own at the embedded Valkey."""
        return self._given["Valkey"] or valkey.url(
            self._ports["Valkey"], user, self._password("valkey", user)
        )

    async def programs(self) -> list[Program]:
        """The embedded parts: those for which no URL was given."""
        programs = []
        if not self._given["PostgreSQL"]:
            programs.append(await postgres.program(self._folder.postgres, *self._own("PostgreSQL")))
        if not self._given["NATS"]:
            programs.append(
                nats.program(
                    self._folder.nats,
                    self._ports["NATS"],
                    self._passwords("nats", (nats.OPERATOR, *deployables.deployables())),
                    self._monitor,
                )
            )
        if not self._given["Valkey"]:
            programs.append(
                valkey.program(
                    self._folder.valkey,
                    self._ports["Valkey"],
                    self._passwords("valkey", (valkey.OPERATOR, *service_settings.with_valkey())),
                )
            )
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

    def _passwords(self, part: str, users: Iterable[str]) -> dict[str, str]:
        return {user: self._password(part, user) for user in users}

    def _password(self, part: str, user: str) -> str:
        return self._secrets.get(f"{part}.{user}")


async def _require_answer(name: str, url: str) -> None:
    address = urlsplit(url.partition(",")[0])
    host, port = address.hostname or "", address.port or DEFAULT_PORTS[name]
    try:
        async with asyncio.timeout(5):
            _, writer = await asyncio.open_connection(host, port)
            writer.close()
    except (OSError, TimeoutError):
        raise OperatorError(f"{name} does not answer at {host}:{port}: check its URL.") from None
