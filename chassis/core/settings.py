"""Settings for operators: environment variables that begin with PROTOMESH_ (docs/reference/settings.md)."""

import pathlib
import secrets
from typing import Annotated, Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

DEFAULT_PORT = 9000

Role = Literal["all", "server", "worker"]
Port = Annotated[int, Field(ge=0, le=65535)]


class Settings(BaseSettings):
    """Settings of every service. A service that needs more derives from this class."""

    model_config = SettingsConfigDict(env_prefix="PROTOMESH_", extra="ignore", frozen=True)

    service: str = Field("", description="Name of the deployable; its entry point sets it.")
    role: Role = Field(
        "all",
        description="What this process does: `server` serves calls, `worker` sends and handles events and does other "
        "background work, `all` does both. The option `--role` of the entry point sets it too.",
    )
    host: str = Field("127.0.0.1", description="Address that the gRPC server listens on.")
    port: Port = Field(DEFAULT_PORT, description="Port that the gRPC server listens on; 0 picks a free port.")
    metrics_port: Port = Field(
        9100, description="Loopback port that serves Prometheus metrics at `/metrics`; 0 picks a free port."
    )
    instance: str = Field(
        "", description="Name of this process in traces (`service.instance.id`); unset: host and port."
    )
    database_url: str = Field(
        "", repr=False, description="PostgreSQL URL of the service's own database; unset: no database."
    )
    database_pool_size: int = Field(
        16,
        ge=3,
        le=200,
        description="Maximum number of connections from the process to its database: a quarter for background work, "
        "a quarter for idempotency keys, the rest for calls.",
    )
    nats_url: str = Field(
        "", repr=False, description="NATS URLs, separated by commas; unset: no events are sent or received."
    )
    nats_replicas: int = Field(
        1,
        ge=1,
        le=5,
        description="Copies of each stream that NATS keeps; 3 in a cluster, 1 on a single server.",
    )
    event_attempts: int = Field(
        10,
        ge=1,
        description="Attempts after which an event that cannot be handled goes to the dead-letter stream.",
    )
    event_backoff_seconds: tuple[Annotated[float, Field(ge=0)], ...] = Field(
        (1, 5, 30, 120, 600),
        min_length=1,
        description="Seconds between the attempts of an event, as JSON: `[1, 5]`; the last one repeats.",
    )
    audit_days: int = Field(365, ge=1, description="Days for which audit records are kept.")
    tls_directory: pathlib.Path | None = Field(
        None,
        description="Directory with `ca.pem`, `<service>.pem` and `<service>.key`, read again when they change; "
        "unset: no TLS, and every internal RPC is refused.",
    )
    trust_domain: str = Field(
        "protomesh.local", description="SPIFFE trust domain that peers' certificates must name."
    )
    targets: dict[str, str] = Field(
        default_factory=dict,
        description='Addresses of other services, as JSON: `{"catalog": "ipv4:127.0.0.1:5001,127.0.0.1:5002"}`; '
        f"a service that is not listed: `dns:///<service>:{DEFAULT_PORT}`.",
    )
    otlp_endpoint: str = Field(
        "",
        description="gRPC target inside the mesh that spans are exported to, such as `127.0.0.1:4317`; "
        "`OTEL_EXPORTER_OTLP_ENDPOINT` adds a second target.",
    )
    otlp_server_name: str = Field(
        "observer", description="Name in the span receiver's certificate; empty: export without TLS."
    )
    trace_sample_ratio: float = Field(
        1.0, ge=0, le=1, description="Share of traces that are recorded when the caller has not decided."
    )
    token_issuer: str = Field("protomesh", description="`iss` that access tokens must have.")
    token_audience: str = Field("protomesh", description="`aud` that access tokens must have.")
    cursor_secret: str = Field(
        default_factory=secrets.token_hex,
        repr=False,
        description="Secret that signs list cursors, the same in every replica; "
        "unset: a new one for each process.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Lowest severity that is logged."
    )
    check_reasons: bool = Field(
        False,
        description="Whether a failure whose reason is not declared in the RPC's contract is a fault; for tests.",
    )
    maximum_concurrent_rpcs: int = Field(
        1000,
        ge=1,
        description="Maximum number of calls that are served at once; each RPC takes fewer when its calls arrive late.",
    )
    maximum_concurrent_streams: int = Field(
        1000,
        ge=1,
        description="Maximum number of server streams that are open at once, counted separately from other calls.",
    )
    maximum_calls_per_caller: int = Field(
        100,
        ge=1,
        description="Maximum number of calls that one signed-in person has open at once in this process.",
    )
    maximum_streams_per_caller: int = Field(
        16,
        ge=1,
        description="Maximum number of server streams that one caller has open at once in this process.",
    )
    drain_wait_seconds: float = Field(
        2.0,
        ge=0,
        description="Seconds between reporting NOT_SERVING and refusing new calls, so that load balancers notice.",
    )
    drain_seconds: float = Field(
        10.0, ge=0, description="Seconds that running calls have to finish during a drain."
    )


class ValkeySettings(Settings):
    """The settings of a service that uses Valkey, which gives it a user there: its keys begin with `<service>:`."""

    valkey_url: str = Field(
        "",
        repr=False,
        description="Valkey or Redis URL, with the service's own user; unset: each process counts by itself.",
    )
