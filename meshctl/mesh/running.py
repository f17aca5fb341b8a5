"""Access to a running mesh, for commands, tests and benchmarks."""

import json
from dataclasses import dataclass
from pathlib import Path

import grpc

from chassis.core import Settings
from chassis.rpc import MeshChannel
from meshctl.core.folder import DEFAULT_FOLDER, MeshFolder
from meshctl.mesh import control


@dataclass(frozen=True)
class RunningMesh:
    """The addresses of a mesh. The URLs contain passwords."""

    edge_url: str
    # Deployable → gRPC target.
    targets: dict[str, str]
    # Deployable → the URL of its own database, as its own role.
    database_urls: dict[str, str]
    postgres_url: str
    nats_url: str
    valkey_url: str
    certificates: str

    @classmethod
    def on(cls, data: Path = DEFAULT_FOLDER) -> "RunningMesh":
        """Returns the mesh on a data folder. Raises OperatorError when none runs there."""
        return cls(**control.ask(MeshFolder(data.resolve()).control, {"command": "wiring"}))

    def settings(self, workload: str = "developer") -> Settings:
        """Returns the addresses as the settings of a service of that name."""
        return Settings(
            service=workload,
            tls_directory=Path(self.certificates),
            targets=self.targets,
            otlp_endpoint=self.targets["observer"],
        )

    def variables(self, workload: str) -> dict[str, str]:
        """Returns the same as environment variables, with the workload's own database."""
        return {"PROTOMESH_DATABASE_URL": self.database_urls[workload], **self.addresses()}

    def addresses(self) -> dict[str, str]:
        """Returns the certificates and the addresses of services as environment variables."""
        return {"PROTOMESH_TLS_DIRECTORY": self.certificates, "PROTOMESH_TARGETS": json.dumps(self.targets)}

    def channel(self, workload: str = "developer") -> grpc.aio.Channel:
        """Returns a channel to all services over mTLS, with the certificate of that workload; close it after use."""
        return MeshChannel(self.settings(workload))
