"""All processes of a mesh: started in order, watched, restarted one by one, stopped in order."""

import asyncio
import dataclasses
import os
import socket
import sys
import time
from collections.abc import Coroutine, Iterable, Mapping
from typing import Any

from chassis.process import ENVIRONMENT
from meshctl.core import deployables, ports
from meshctl.core.failure import OperatorError
from meshctl.core.folder import MeshFolder
from meshctl.core.polling import until
from meshctl.mesh import accounts, housekeeping, services
from meshctl.mesh.embedded import Parts
from meshctl.mesh.gateway import Gateway
from meshctl.mesh.options import VARIABLES, Options
from meshctl.mesh.process import Process, Say, reason
from meshctl.mesh.program import LATE_EVENT_SECONDS, Account, Program, launch_command
from meshctl.mesh.progress import Progress
from meshctl.mesh.services import Wiring, Worker
from meshctl.pki import certificates

REACHED_SECONDS = 30.0
# Options of `up` are not settings of a service; and with cached bytecode a service starts in half the time.
NOT_PASSED_ON = VARIABLES | {"PYTHONDONTWRITEBYTECODE"}
# The longest pause of another service's channel before it connects again to a worker that is back, and a little.
RECONNECT_SECONDS = 2.5


class Supervisor:
    """The mesh on one data folder; `progress` shows what a person should see."""

    def __init__(self, options: Options, progress: Progress) -> None:
        self.options = options
        self.folder = MeshFolder(options.data.resolve())
        self._progress = progress
        self._ports = ports.Ports()
        self._edge_port: socket.socket | None = None
        self._ledger = housekeeping.Ledger(self.folder.processes)
        self._processes: dict[str, Process] = {}
        self._restarting = asyncio.Lock()
        self._account = Account()
        self._gateway: Gateway | None = None
        self._wiring: Wiring | None = None

    @property
    def count(self) -> int:
        """How many processes it runs."""
        return len(self._processes)

    @property
    def edge_url(self) -> str:
        """Where clients find the mesh."""
        return f"http://127.0.0.1:{self.options.port}"

    async def start(self) -> None:
        """Starts everything, and returns when the edge finds every worker healthy.

        The folder must be prepared and locked. After an OperatorError, call `stop` to end what was started.
        """
        # First, since an orphaned edge still has the port.
        self._ledger.end_orphans()
        self._account = await asyncio.to_thread(accounts.of_mesh, self.folder.root)
        accounts.hand_over(self.folder, self._account)
        self._edge_port = ports.claim(self.options.port, self._account.uid)
        certificates.issue(self.folder.certificates, deployables.workloads())
        parts = Parts(self.options, self.folder, self._ports)
        await self._start_parts(parts)
        await self._step("databases, roles, migrations", self._migrate(parts))
        workers = services.workers(
            deployables.deployables(), self.options.workers, self._ports, self.options.background_workers
        )
        wiring = services.wire(self.folder, parts, workers)
        await self._start_services(wiring)
        await self._step(f"edge: {self.edge_url}", self._start_edge(wiring))

    async def load_samples(self) -> None:
        """Loads the sample data, once for each data folder."""
        stamp = self.folder.root / "sample-data"
        if self.options.sample_data and not stamp.exists():
            await self._step("sample products, stock and accounts", self._run("seed"))
            stamp.touch()

    async def stop(self) -> None:
        """Stops the edge first, then the services, then the parts."""
        groups: dict[int, list[Process]] = {0: [], 1: [], 2: []}
        for name, process in self._processes.items():
            groups[0 if name == "edge" else 2 if name in ("postgres", "nats", "valkey") else 1].append(
                process
            )
        for group in groups.values():
            await asyncio.gather(*(process.stop() for process in group))
        self._ports.release()
        if self._edge_port:
            self._edge_port.close()

    async def status(self) -> list[dict[str, Any]]:
        """Returns each process with its health, port, metrics, memory in bytes, uptime in seconds, and restarts."""
        return await asyncio.gather(*(_state(process) for process in list(self._processes.values())))

    def wiring(self) -> dict[str, Any]:
        """Returns the addresses for callers that bypass the edge: the fields of meshctl.mesh.running.RunningMesh."""
        wiring, _ = self._started()
        parts = wiring.parts
        return {
            "edge_url": self.edge_url,
            "targets": wiring.targets(),
            "database_urls": dict(wiring.database_urls),
            "postgres_url": parts.postgres_url,
            "nats_url": parts.nats_url,
            "valkey_url": parts.valkey_url,
            "certificates": str(self.folder.certificates),
        }

    async def restart(self, service: str, say: Say) -> None:
        """Restarts the workers of a service one at a time: with two or more, no request fails.

        Each worker leaves the edge's list, drains, starts again, and must be found healthy before the next one.
        """
        wiring, gateway = self._started()
        workers = [worker for worker in wiring.workers if worker.service == service]
        if not workers:
            known = ", ".join(deployables.deployables())
            raise OperatorError(f"There is no service {service!r}: the services are {known}.")
        servers = sum(worker.serves for worker in workers)
        async with self._restarting:
            for worker in workers:
                if worker.serves and servers > 1:
                    gateway.route_to(wiring.targets(without=worker))
                await self._replace(worker, wiring, gateway)
                say(f"{worker.name} is healthy again")

    async def _replace(self, worker: Worker, wiring: Wiring, gateway: Gateway) -> None:
        try:
            await self._processes[worker.name].restart()
        finally:
            gateway.route_to(wiring.targets())
        if worker.serves:
            await self._until_reached(gateway, [worker])
            await asyncio.sleep(RECONNECT_SECONDS)

    def _started(self) -> tuple[Wiring, Gateway]:
        if self._wiring is None or self._gateway is None:
            raise OperatorError("The mesh is still starting: try again in a moment.")
        return self._wiring, self._gateway

    async def _start_parts(self, parts: Parts) -> None:
        await parts.reachable()
        await together(self._step(part.name, self._start(part)) for part in await parts.programs())

    async def _start_services(self, wiring: Wiring) -> None:
        self._wiring = wiring
        await together(
            self._step(worker.name, self._start(wiring.program(worker))) for worker in wiring.workers
        )

    async def _start_edge(self, wiring: Wiring) -> None:
        gateway = Gateway(self.folder, self.options.port, self._ports.take(), wiring.targets())
        await self._start(gateway.program())
        self._gateway = gateway
        await self._until_reached(gateway, wiring.workers)

    async def _until_reached(self, gateway: Gateway, workers: Iterable[Worker]) -> None:
        """Waits until the edge finds these workers healthy."""
        wanted: dict[str, list[int]] = {}
        for worker in filter(lambda worker: worker.serves, workers):
            wanted.setdefault(worker.service, []).append(worker.port)
        try:
            async with asyncio.timeout(REACHED_SECONDS):
                await until(lambda: gateway.reaches(wanted))
        except TimeoutError:
            raise OperatorError(
                f"The edge does not reach {', '.join(wanted)}: see {self.folder.logs}."
            ) from None

    async def _migrate(self, parts: Parts) -> None:
        alone = str(not self.options.postgres_url)
        await self._run("migrate", PROTOMESH_POSTGRES_URL=parts.postgres_url, PROTOMESH_POSTGRES_ALONE=alone)

    async def _run(self, command: str, **environment: str) -> None:
        """Runs a command of meshctl on this folder to its end, in a separate process, which leaves no memory behind."""
        line = (sys.executable, "-P", "-m", "meshctl", command, "--data", str(self.folder.root))
        log = self.folder.logs / f"{command}.log"
        with log.open("wb") as output:
            child = await asyncio.create_subprocess_exec(
                *launch_command(line),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=self._environment(environment),
                start_new_session=True,
            )
            code = await child.wait()
        if code != 0:
            raise OperatorError(reason(log.read_text(errors="replace").strip().rpartition("\n")[2]))

    async def _start(self, program: Program) -> None:
        account = self._account.with_capabilities(program.capabilities)
        environment = self._environment(program.environment)
        program = dataclasses.replace(program, account=account, environment=environment)
        process = Process(
            program, self.folder.logs / f"{program.name}.log", self._progress.say, self._ledger.add
        )
        self._processes[program.name] = process
        await process.start()

    def _environment(self, own: Mapping[str, str]) -> dict[str, str]:
        """Returns the child's whole environment. It inherits settings of services, but not the options of `up`."""
        inherited = {name: value for name, value in os.environ.items() if name not in NOT_PASSED_ON}
        # Calls within the mesh never go through a proxy.
        direct = {"no_proxy": ",".join(filter(None, (os.environ.get("no_proxy"), "127.0.0.1,localhost")))}
        return {**ENVIRONMENT, **inherited, **direct, **own}

    async def _step(self, title: str, work: Coroutine[Any, Any, object]) -> None:
        with self._progress.step(title):
            await work


async def together(work: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Runs all tasks; the first failure cancels the others and is raised once they have ended."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise


async def _state(process: Process) -> dict[str, Any]:
    health, lag = await asyncio.gather(process.health(), services.outbox_lag(process.program))
    late = f"its oldest event has waited for {lag:.0f} s to be published" if lag > LATE_EVENT_SECONDS else ""
    return {
        "name": process.name,
        "pid": process.pid,
        "healthy": not (health.complaint or late),
        "complaint": health.complaint or late,
        "port": process.program.port,
        "metrics_url": process.program.metrics_url,
        "memory": await asyncio.to_thread(housekeeping.memory_of, process.pid),
        "uptime": time.time() - process.started_at if process.pid else 0.0,
        "restarts": process.restarts,
    }
