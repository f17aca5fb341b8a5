"""A whole mesh for tests, as ./scripts/up starts it: on free ports, in a folder of its own, beside any other."""

import asyncio
import contextlib
import itertools
import os
import secrets
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx

from meshctl.core.folder import MeshFolder
from meshctl.core.ports import Ports
from meshctl.mesh import control
from meshctl.mesh.program import Account, launch_command
from meshctl.mesh.running import RunningMesh
from tests.patience import eventually

ROOT = Path(__file__).parents[1]
UP_SECONDS, HEALTHY_SECONDS = 120.0, 60.0
# The account that the tests run as.
OURS = Account()
# All tests share one address, and send more than a client of it may. A reason that no contract declares is a fault.
GENEROUS = {
    "PROTOMESH_CHECK_REASONS": "true",
    "PROTOMESH_RATE_LIMIT_MULTIPLIER": "1000",
    "PROTOMESH_EDGE_ADDRESS_REQUESTS_PER_SECOND": "100000",
    "PROTOMESH_EDGE_ADDRESS_BURST": "100000",
}


@dataclass(frozen=True)
class User:
    """A registered user; `token` is an access token of a session of theirs."""

    id: str
    username: str
    email: str
    password: str
    token: str

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.token}"}


class Mesh:
    """A running mesh. `http` speaks to its edge."""

    def __init__(self, folder: Path) -> None:
        self.folder = MeshFolder(folder)
        self._where = RunningMesh.on(folder)
        known = dict(line.split("=", 1) for line in self.folder.dev_env.read_text().splitlines())
        self.edge_url = self._where.edge_url
        self.admin_email, self.admin_password = known["ADMIN_EMAIL"], known["ADMIN_PASSWORD"]
        self.nats_url, self.valkey_url = self._where.nats_url, self._where.valkey_url
        self.targets = self._where.targets
        self.http = httpx.AsyncClient(base_url=self.edge_url, trust_env=False, timeout=30)
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._staff: User | None = None
        self._counter = itertools.count()

    def channel(self, workload: str = "developer") -> grpc.aio.Channel:
        """A channel to all services with that workload's certificate; shared, closed with the mesh."""
        if workload not in self._channels:
            self._channels[workload] = self._where.channel(workload)
        return self._channels[workload]

    async def sign_up(self) -> User:
        """A new customer, registered and signed in through the edge."""
        name = f"user{next(self._counter)}-{secrets.token_hex(4)}"
        email, password = f"{name}@example.com", secrets.token_hex(12)
        body = {"username": name, "email": email, "password": password}
        answer = await self.http.post("/v1/users/register", json=body)
        assert answer.status_code == 201, answer.text
        return User(answer.json()["id"], name, email, password, await self.log_in(email, password))

    async def log_in(self, email: str, password: str) -> str:
        """An access token of a new session."""
        answer = await self.http.post("/v1/users/login", json={"email": email, "password": password})
        assert answer.status_code == 200, answer.text
        return str(answer.json()["access_token"])

    async def admin_token(self) -> str:
        """A fresh access token of the administrator."""
        return await self.log_in(self.admin_email, self.admin_password)

    async def staff_token(self) -> str:
        """A fresh access token of a user who is staff."""
        if self._staff is None:
            user = await self.sign_up()
            headers = {"authorization": f"Bearer {await self.admin_token()}"}
            answer = await self.http.put(f"/v1/users/{user.id}/role", json={"role": "staff"}, headers=headers)
            assert answer.status_code == 200, answer.text
            self._staff = user
        return await self.log_in(self._staff.email, self._staff.password)

    def database_url(self, service: str) -> str:
        """The URL of a service's database, as the service's own role."""
        return self._where.database_urls[service]

    @property
    def postgres_url(self) -> str:
        """The superuser's URL."""
        return self._where.postgres_url

    def status(self) -> list[dict[str, Any]]:
        """The supervisor's view of each process: name, pid, healthy, port, memory, uptime, restarts."""
        return list(control.ask(self.folder.control, {"command": "status"}))

    def processes(self, service: str) -> list[int]:
        """The pids of a service's workers, or of `postgres`, `nats`, `valkey`, `edge`."""
        return [state["pid"] for state in self.status() if state["name"].rstrip("-0123456789") == service]

    def kill(self, pid: int) -> None:
        """Ends one of the mesh's processes as a crash would; the supervisor starts it again."""
        os.kill(pid, signal.SIGKILL)

    async def healthy(self) -> None:
        """Returns once every process is healthy."""

        async def all_healthy() -> bool:
            return all(state["healthy"] for state in await asyncio.to_thread(self.status))

        await eventually(all_healthy, within=HEALTHY_SECONDS)

    async def close(self) -> None:
        await self.http.aclose()
        await asyncio.gather(*(channel.close() for channel in self._channels.values()))


@asynccontextmanager
async def running_mesh(
    folder: Path,
    *arguments: str,
    environment: Mapping[str, str] = GENEROUS,
    sample_data: bool = False,
    account: Account = OURS,
) -> AsyncIterator[Mesh]:
    """A mesh in `folder`, healthy; stopped at the end. `arguments` are further options of `meshctl up`."""
    options = [*arguments, *(() if sample_data else ("--no-sample-data",))]
    up = await start_up(folder, *options, environment=environment, account=account)
    try:
        await _healthy_line(up)
        mesh = Mesh(folder)
        try:
            yield mesh
        finally:
            await mesh.close()
    finally:
        with contextlib.suppress(ProcessLookupError):
            up.terminate()
        # What it says meanwhile must be read, or it could not end.
        await up.communicate()


async def start_up(
    folder: Path, *arguments: str, environment: Mapping[str, str] = GENEROUS, account: Account = OURS
) -> asyncio.subprocess.Process:
    """`meshctl up` on a free port, as a child that ends with this process; its output is a pipe."""
    options: Sequence[str] = ("--data", str(folder), *arguments)
    if "--port" not in arguments:
        options = (*options, "--port", str(Ports().take()))
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PROTOMESH_")}
    return await asyncio.create_subprocess_exec(
        *launch_command((sys.executable, "-P", "-m", "meshctl", "up", *options), account),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**inherited, **environment},
        start_new_session=True,
    )


async def _healthy_line(up: asyncio.subprocess.Process) -> None:
    """Reads what `up` says until the mesh is up."""
    assert up.stdout is not None
    said = b""
    async with asyncio.timeout(UP_SECONDS):
        async for line in up.stdout:
            said += line
            if line.startswith(b"The mesh is up"):
                return
    raise AssertionError(f"The mesh did not come up:\n{said.decode()}")
