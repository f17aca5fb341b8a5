"""`meshctl probe`: checks whether a deployable on this machine is serving, for health checks of containers."""

import os
from pathlib import Path

import grpc
import typer
from grpc_health.v1 import health_pb2

SECONDS = 1.5


def probe(service: str, port: int = 9000) -> None:
    """Check whether a service on this machine is serving.

    It calls the health service over mTLS, as the workload `developer`. The exit code is 1 unless it is serving.
    """
    certificates = Path(os.environ["PROTOMESH_TLS_DIRECTORY"])
    files = (certificates / name for name in ("ca.pem", "developer.key", "developer.pem"))
    credentials = grpc.ssl_channel_credentials(*(file.read_bytes() for file in files))
    options = (("grpc.ssl_target_name_override", service), ("grpc.enable_http_proxy", 0))
    with grpc.secure_channel(f"127.0.0.1:{port}", credentials, options) as channel:
        check = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            health_pb2.HealthCheckRequest.SerializeToString,
            health_pb2.HealthCheckResponse.FromString,
        )
        try:
            answer = check(health_pb2.HealthCheckRequest(), timeout=SECONDS)
        except grpc.RpcError:
            raise typer.Exit(1) from None
    if answer.status != health_pb2.HealthCheckResponse.SERVING:
        raise typer.Exit(1)
