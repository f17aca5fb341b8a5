"""How each deployable is started: its workers, their ports and their settings."""

import asyncio
import json
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2

from chassis.core import Role
from meshctl.core import deployables, loopback, service_settings
from meshctl.core.folder import MeshFolder
from meshctl.core.ports import Ports
from meshctl.databases import provisioning
from meshctl.mesh.embedded import Parts
from meshctl.mesh.program import CHECK_TIMEOUT, Program
from meshctl.pki.certificates import TRUST_DOMAIN

ADMIN_EMAIL = "admin@protomesh.local"
# The observer keeps its window of traces in memory, so there can be only one.
ALONE = ("observer",)
# The connections of all workers together stay below the limit of the embedded PostgreSQL.
CONNECTIONS = 160
# A new channel reads the certificate anew, which is renewed while the mesh runs.
REOPENED_SECONDS = 3600.0


@dataclass(frozen=True)
class Worker:
    """One process of a deployable."""

    service: str
    number: int
    port: int
    metrics_port: int
    role: Role = "all"

    @property
    def name(self) -> str:
        kind = f"{self.service}-worker" if self.role == "worker" else self.service
        return f"{kind}-{self.number}"

    @property
    def serves(self) -> bool:
        """Whether calls are sent to this process."""
        return self.role != "worker"


@dataclass(frozen=True)
class Wiring:
    """The settings by which every service finds the rest of the mesh."""

    folder: MeshFolder
    parts: Parts
    # Deployable → the URL of its own database.
    database_urls: Mapping[str, str]
    workers: tuple[Worker, ...]
    # Deployable → settings for this deployable only.
    own: Mapping[str, Mapping[str, str]]

    def targets(self, without: Worker | None = None) -> dict[str, str]:
        """Returns deployable → gRPC target with all its workers, without one that is about to stop."""
        ports: dict[str, list[int]] = {}
        for worker in self.workers:
            if worker.serves and worker != without:
                ports.setdefault(worker.service, []).append(worker.port)
        return {
            name: "ipv4:" + ",".join(f"127.0.0.1:{port}" for port in found) for name, found in ports.items()
        }

    def program(self, worker: Worker) -> Program:
        return Program(
            name=worker.name,
            command=(sys.executable, "-P", "-m", f"services.{worker.service}", "--role", worker.role),
            port=worker.port,
            ready=Health(self.folder.certificates, worker).serving,
            metrics_url=f"http://127.0.0.1:{worker.metrics_port}/metrics",
            environment=self._environment(worker),
        )

    def _environment(self, worker: Worker) -> dict[str, str]:
        count = sum(1 for other in self.workers if other.service in self.database_urls)
        values = {
            "port": str(worker.port),
            "metrics_port": str(worker.metrics_port),
            "instance": worker.name,
            "database_url": self.database_urls.get(worker.service, ""),
            "database_pool_size": str(max(3, min(16, CONNECTIONS // max(1, count)))),
            "nats_url": self.parts.nats_url_of(worker.service),
            "valkey_url": self._valkey_url(worker.service),
            "objects_url": self.parts.objects_url,
            "tls_directory": str(self.folder.certificates),
            "trust_domain": TRUST_DOMAIN,
            "targets": json.dumps(self.targets()),
            "otlp_endpoint": self.targets().get("observer", ""),
            "cursor_secret": self.folder.secrets().get("cursor_secret"),
            **self.own.get(worker.service, {}),
        }
        return {f"PROTOMESH_{name.upper()}": value for name, value in values.items()}

    def _valkey_url(self, service: str) -> str:
        return self.parts.valkey_url_of(service) if service in service_settings.with_valkey() else ""


def workers(names: Iterable[str], count: int, ports: Ports, background: int = 0) -> tuple[Worker, ...]:
    """Returns `count` workers of each deployable, each on separate ports.

    With `background`, that many more processes of each deployable with a database do the background work, and the
    others only serve.
    """
    found: list[Worker] = []

    def add(name: str, many: int, role: Role) -> None:
        found.extend(Worker(name, number, ports.take(), ports.take(), role) for number in range(1, many + 1))

    for name in names:
        apart = background if name in deployables.with_database() else 0
        add(name, 1 if name in ALONE else count, "server" if apart else "all")
        add(name, apart, "worker")
    return tuple(found)


def wire(folder: MeshFolder, parts: Parts, workers: tuple[Worker, ...]) -> Wiring:
    """The settings of all workers, with the secrets of the folder."""
    secrets = folder.secrets()
    urls = {
        name: provisioning.service_url(parts.postgres_url, name, secrets.get(f"database.{name}"))
        for name in deployables.with_database()
    }
    identity = {
        "key_encryption_secret": secrets.get("key_encryption_secret"),
        "bootstrap_admin_email": ADMIN_EMAIL,
        "bootstrap_admin_password": secrets.get("admin_password"),
    }
    return Wiring(folder, parts, urls, workers, own={"identity": identity})


async def outbox_lag(program: Program) -> float:
    """Returns the age in seconds of a worker's oldest event that is not published; 0 for what has no events."""
    text = await asyncio.to_thread(loopback.page, program.metrics_url)
    ages = (line.split()[-1] for line in text.splitlines() if line.startswith("outbox_lag_seconds{"))
    return max(map(float, ages), default=0.0)


class Health:
    """Checks a worker's health as the workload `developer`, over mTLS."""

    def __init__(self, certificates: Path, worker: Worker) -> None:
        self._certificates, self._worker = certificates, worker
        self._check: Any = None
        self._opened = 0.0

    async def serving(self) -> bool:
        """Whether it serves calls. Raises ConnectionError when it does not answer."""
        if self._check is None or time.monotonic() - self._opened > REOPENED_SECONDS:
            self._opened = time.monotonic()
            request, answer_type = health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse
            self._check = self._open().unary_unary(
                "/grpc.health.v1.Health/Check", request.SerializeToString, answer_type.FromString
            )
        try:
            answer = await self._check(health_pb2.HealthCheckRequest(), timeout=CHECK_TIMEOUT)
        except grpc.aio.AioRpcError as failure:
            raise ConnectionError(failure.code().name) from None
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    def _open(self) -> grpc.aio.Channel:
        files = (self._certificates / name for name in ("ca.pem", "developer.key", "developer.pem"))
        credentials = grpc.ssl_channel_credentials(*(file.read_bytes() for file in files))
        options = (
            ("grpc.ssl_target_name_override", self._worker.service),
            ("grpc.enable_http_proxy", 0),
            # A worker that is starting is asked again soon.
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.min_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 500),
        )
        return grpc.aio.secure_channel(f"127.0.0.1:{self._worker.port}", credentials, options)
