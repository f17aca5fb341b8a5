"""The Envoy edge as a program of the supervisor: its settings, its health, its drain."""

import asyncio
import http.client
import json
import os
from collections.abc import Mapping
from typing import Any

from meshctl.core import loopback
from meshctl.core.folder import MeshFolder
from meshctl.core.polling import until
from meshctl.edge import rendering
from meshctl.mesh.program import CAP_DAC_READ_SEARCH, CAP_NET_BIND_SERVICE, Program

DRAIN_SECONDS = 10.0


class Gateway:
    """Envoy with the endpoints of all workers. `targets` maps deployables to gRPC targets."""

    def __init__(self, folder: MeshFolder, port: int, metrics_port: int, targets: Mapping[str, str]) -> None:
        self._folder = folder
        self._settings = rendering.EdgeSettings(
            port=port,
            # From the folder that Envoy runs in, because a socket's address has 108 bytes, and a path may have more.
            admin_socket=folder.edge_admin.relative_to(folder.edge),
            metrics_port=metrics_port,
            certificates=folder.certificates,
            targets=dict(targets),
            # Envoy's threads share the machine with all services.
            concurrency=int(os.environ.get("PROTOMESH_EDGE_CONCURRENCY", min(2, os.cpu_count() or 1))),
        )

    def program(self) -> Program:
        """Writes the configuration, and returns the program that runs Envoy with it."""
        configuration = rendering.write(self._settings, self._folder.edge)
        self._folder.edge_admin.parent.mkdir(mode=0o700, exist_ok=True)
        envoy = rendering.command(self._settings, configuration)
        return Program(
            name="edge",
            command=("/bin/sh", "-c", 'cd "$0" && exec "$@"', str(self._folder.edge), *envoy),
            environment=rendering.environment(),
            port=self._settings.port,
            capabilities=self._capabilities(),
            ready=self._live,
            metrics_url=f"http://127.0.0.1:{self._settings.metrics_port}/stats/prometheus",
            drain=self._drain,
            longest_backoff=2.0,
        )

    def _capabilities(self) -> int:
        """Returns what Envoy needs beyond an account without rights: a low port, and a key that is not the mesh's."""
        low_port = (1 << CAP_NET_BIND_SERVICE) * (self._settings.port < 1024)
        return low_port | (1 << CAP_DAC_READ_SEARCH) * (self._settings.tls_private_key is not None)

    def route_to(self, targets: Mapping[str, str]) -> None:
        """Sends requests to these workers from now on; connections to workers that remain are kept."""
        rendering.write_targets(self._settings, self._folder.edge, targets)

    async def reaches(self, ports: Mapping[str, list[int]]) -> bool:
        """Whether Envoy finds all these workers of these deployables healthy."""
        clusters = json.loads((await self._admin("GET", "/clusters?format=json"))[1])["cluster_statuses"]
        healthy = {cluster["name"]: _healthy_ports(cluster) for cluster in clusters}
        return all(set(wanted) <= healthy.get(name, set()) for name, wanted in ports.items())

    async def _live(self) -> bool:
        return (await self._admin("GET", "/ready"))[0] == 200

    async def _drain(self) -> None:
        """Stops accepting connections, and waits for running requests."""
        try:
            async with asyncio.timeout(DRAIN_SECONDS):
                await self._admin("POST", "/drain_listeners")
                await until(self._idle)
        except (OSError, http.client.HTTPException, TimeoutError):
            return

    async def _idle(self) -> bool:
        _, text = await self._admin("GET", "/stats?filter=^http.edge.downstream_rq_active$")
        return int(text.rpartition(":")[2] or 0) == 0

    async def _admin(self, verb: str, path: str) -> tuple[int, str]:
        return await loopback.request(self._folder.edge_admin, path, verb)


def _healthy_ports(cluster: dict[str, Any]) -> set[int]:
    return {
        host["address"].get("socket_address", {}).get("port_value", 0)
        for host in cluster.get("host_statuses", [])
        if host["health_status"].get("eds_health_status", "HEALTHY") == "HEALTHY"
        and not host["health_status"].get("failed_active_health_check")
        and not host["health_status"].get("pending_active_hc")
    }
