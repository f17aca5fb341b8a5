"""The edge where it runs: fills the generated configuration with settings, and lists the workers of each service.

`python -m meshctl.edge DIRECTORY` writes all files for an Envoy that is started with `envoy -c DIRECTORY/edge.yaml`.
"""

import hashlib
import ipaddress
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from chassis import contract
from meshctl.core import files
from meshctl.edge import descriptors, placeholders

ROOT = Path(__file__).resolve().parents[2]
DEFAULT_UPSTREAM_PORT = 9000
DESCRIPTORS = "descriptors.binpb"
OPENAPI = "openapi.yaml"

# Connections to one service for short requests: `max_connections` in envoy/cluster.yaml.
CONNECTIONS = 4
# An RPC that is slow by nature keeps as many requests at once, as in the service itself.
LEAST_LONG_REQUESTS = 16

Port = Annotated[int, Field(ge=1, le=65535)]


class EdgeSettings(BaseSettings):
    """Settings of the edge, by environment variables that begin with PROTOMESH_EDGE_ (docs/edge.md)."""

    model_config = SettingsConfigDict(env_prefix="PROTOMESH_EDGE_", extra="ignore", frozen=True)

    address: str = Field("127.0.0.1", description="Address that the edge listens on.")
    port: Port = Field(8080, description="Port that the edge listens on.")
    admin_socket: Path = Field(
        Path("/tmp/protomesh-edge-admin"),  # noqa: S108 - a file of others there ends the start, and nothing else
        description="Unix socket of Envoy's admin interface, for its owner alone; at most 107 bytes long.",
    )
    metrics_address: str = Field(
        "127.0.0.1", description="Address that `/stats/prometheus` and `/ready` are on."
    )
    metrics_port: Port = Field(9901, description="Port that `/stats/prometheus` and `/ready` are on.")
    tls_certificate: Path | None = Field(
        None, description="PEM chain that clients see, re-read when it is replaced; unset: plain text."
    )
    tls_private_key: Path | None = Field(None, description="PEM key of `tls_certificate`.")
    transport_security: str = Field(
        "max-age=31536000",
        description="`strict-transport-security` of responses over TLS. `max-age=31536000; includeSubDomains` only "
        "when all subdomains have TLS.",
    )
    certificates: Path = Field(
        Path("/etc/protomesh/tls"),
        description="Directory with `ca.pem`, `edge.pem` and `edge.key` of the mesh.",
    )
    trust_domain: str = Field(
        "protomesh.local", description="SPIFFE trust domain of the upstreams' certificates."
    )
    targets: dict[str, str] = Field(
        default_factory=dict,
        description='Where services are, as JSON: `{"catalog": "ipv4:127.0.0.1:5001,127.0.0.1:5002"}`; '
        f"one that is not named: `dns:///<service>:{DEFAULT_UPSTREAM_PORT}`.",
    )
    token_issuer: str = Field("protomesh", description="`iss` that access tokens must have.")
    token_audience: str = Field("protomesh", description="`aud` that access tokens must have.")
    cors_origins: list[str] = Field(
        default_factory=list,
        description='Origins whose pages may call the API, as JSON: `["https://shop.example"]`; none unless set.',
    )
    trusted_proxies: int = Field(
        0, ge=0, description="Load balancers of ours in front, whose `x-forwarded-for` entries are believed."
    )
    address_requests_per_second: int = Field(
        500, ge=1, description="Requests a second that one address may send to one edge, all routes together."
    )
    address_burst: int = Field(1000, ge=1, description="Requests that one address may send at once.")
    maximum_connections: int = Field(10_000, ge=1, description="Client connections that are open at once.")
    connection_duration: int = Field(
        600, ge=1, description="Seconds after which a client's connection ends, once nothing runs on it."
    )
    maximum_requests: int = Field(
        128,
        ge=CONNECTIONS,
        description="Short requests that one service has at once from one edge; more stand in line.",
    )
    maximum_waiting_requests: int = Field(
        256,
        ge=1,
        description="Short requests that stand in line for one service; one more is 429. With those before "
        "them, as many as it surely finishes in time.",
    )
    maximum_long_requests: int = Field(
        128,
        ge=1,
        description="Requests of one RPC whose contract gives it more than 2 s, at once from one edge; fewer while "
        "they take more than a second. One more is 429.",
    )
    maximum_streams: int = Field(
        1536, ge=1, description="Streams that one service has at once from one edge; one more is 429."
    )
    maximum_heap_bytes: int = Field(
        512 * 1024 * 1024, ge=64 * 1024 * 1024, description="Memory from which Envoy sheds load, in bytes."
    )
    trace_sample_ratio: float = Field(1.0, ge=0, le=1, description="Share of requests that are traced.")
    concurrency: int = Field(0, ge=0, description="Envoy's worker threads; 0: one for each core.")
    log_level: str = Field("warning", description="Least severity that Envoy logs, besides the access log.")


def write(settings: EdgeSettings, directory: Path) -> Path:
    """Writes all of the edge's configuration into `directory` and returns the path of the file to start Envoy with."""
    directory = directory.resolve()
    tree = yaml.load((ROOT / "gen/envoy/edge.yaml").read_text(), Loader=_Loader)  # noqa: S506 - the safe loader, in C where there is one
    for secret in _secrets(settings):
        _put(directory / "secrets" / f"{secret['name']}.yaml", {"resources": [secret]})
    write_targets(settings, directory, settings.targets)
    image = (ROOT / "gen/descriptors/protomesh.binpb").read_bytes()
    files.write_private(directory / DESCRIPTORS, descriptors.for_transcoder(image))
    files.write_private(directory / OPENAPI, (ROOT / "gen/openapi/protomesh.yaml").read_text())
    return _put(directory / "edge.yaml", placeholders.fill(tree, _values(settings, directory)))


def write_targets(settings: EdgeSettings, directory: Path, targets: Mapping[str, str]) -> None:
    """Updates the addresses of the services in a running edge, without a restart.

    `targets` maps deployables to gRPC targets: `ipv4:` (or `ipv6:`) with a list of addresses, which may change at any
    time without a connection lost, or `dns:///name:port`, which Envoy resolves to all its addresses.
    """
    directory = directory.resolve()
    deployables = sorted({method.deployable for method in contract.platform()} | set(targets))
    complete = {name: targets.get(name, f"dns:///{name}:{DEFAULT_UPSTREAM_PORT}") for name in deployables}
    for name, target in complete.items():
        if not _is_dns(target):
            _put(directory / "endpoints" / f"{name}.yaml", {"resources": [_assignment(name, target)]})
    clusters = [_cluster(settings, directory, name, target) for name, target in complete.items()]
    _put(directory / "clusters.yaml", {"resources": clusters})


def command(settings: EdgeSettings, configuration: Path) -> tuple[str, ...]:
    """Returns the command line that runs Envoy. Raises FileNotFoundError when Envoy is not installed."""
    beside_python = Path(sys.executable).parent / "envoy"
    program = str(beside_python) if beside_python.exists() else shutil.which("envoy")
    if program is None:
        raise FileNotFoundError("envoy is neither in the virtual environment nor in PATH.")
    # Hot restart shares memory by a number that other Envoys of the machine would take too.
    options = (
        "--disable-hot-restart",
        "--file-flush-interval-msec",
        "1000",
        "--log-level",
        settings.log_level,
    )
    workers = ("--concurrency", str(settings.concurrency)) if settings.concurrency else ()
    return (program, "-c", str(configuration), *options, *workers)


def environment(kernel: str = os.uname().release) -> dict[str, str]:
    """Returns what Envoy's environment needs besides that of its parent.

    Envoy's allocator wants each thread's registration for restartable sequences, to keep free memory for each core; by
    default glibc takes it. Linux 6.19 broke how the allocator uses it, so from there on glibc keeps it. See
    docs/decisions/the-edges-hot-path.md.
    """
    version = tuple(int(part) for part in re.findall(r"\d+", kernel)[:2])
    wanted = sys.platform == "linux" and "GLIBC_TUNABLES" not in os.environ and version < (6, 19)
    return {"GLIBC_TUNABLES": "glibc.pthread.rseq=0"} if wanted else {}


def _values(settings: EdgeSettings, directory: Path) -> dict[str, Any]:
    known = {
        "directory": str(directory),
        "admin_socket": str(settings.admin_socket),
        "jwks_socket": _socket(directory),
        "descriptors": str(directory / DESCRIPTORS),
        "openapi": str(directory / OPENAPI),
        "downstream_tls": _downstream_tls(settings, directory),
        "transport_security": settings.transport_security if settings.tls_certificate else "",
        "minimum_long_requests": min(settings.maximum_long_requests, LEAST_LONG_REQUESTS),
        "trace_sample_percent": settings.trace_sample_ratio * 100,
        "cors_origins": [{"exact": origin} for origin in settings.cors_origins],
    }
    return {f"setting.{name}": value for name, value in {**dict(settings), **known}.items()}


def _socket(directory: Path) -> str:
    """Returns the socket of this directory's Envoy: on Linux an abstract name, so that Envoy may have it read-only."""
    name = f"protomesh-edge-{hashlib.sha256(os.fsencode(directory)).hexdigest()[:16]}"
    return f"@{name}" if sys.platform == "linux" else str(Path(tempfile.gettempdir(), f"{name}.sock"))


def _cluster(settings: EdgeSettings, directory: Path, deployable: str, target: str) -> Any:
    by_dns = _is_dns(target)
    values = {
        "deployable": deployable,
        "discovery": "STRICT_DNS" if by_dns else "EDS",
        "endpoint_file": None
        if by_dns
        else {"eds_config": _file(directory / "endpoints" / f"{deployable}.yaml")},
        "load_assignment": _assignment(deployable, target) if by_dns else None,
        "directory": str(directory),
        "trust_domain": settings.trust_domain,
        "streams_per_connection": settings.maximum_requests // CONNECTIONS,
        "maximum_waiting_requests": settings.maximum_waiting_requests,
        "maximum_streams": settings.maximum_streams,
    }
    return placeholders.fill(yaml.safe_load((ROOT / "envoy/cluster.yaml").read_text()), values)


def _assignment(deployable: str, target: str) -> dict[str, Any]:
    assignment = {"cluster_name": deployable, "endpoints": [{"lb_endpoints": _endpoints(target)}]}
    kind = (
        {}
        if _is_dns(target)
        else {"@type": "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"}
    )
    return {**kind, **assignment}


def _endpoints(target: str) -> list[dict[str, Any]]:
    addresses = target.removeprefix("dns:///").removeprefix("ipv4:").removeprefix("ipv6:").split(",")
    split = (address.strip().rpartition(":") for address in addresses if address.strip())
    return [
        {"endpoint": {"address": {"socket_address": {"address": host.strip("[]"), "port_value": int(port)}}}}
        for host, _, port in split
    ]


def _is_dns(target: str) -> bool:
    """Whether a target is a name; a target with no scheme counts as an address."""
    if target.startswith(("ipv4:", "ipv6:")):
        return False
    host = target.removeprefix("dns:///").partition(",")[0].rpartition(":")[0].strip("[]")
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return True
    return False


def _secrets(settings: EdgeSettings) -> list[Any]:
    base = yaml.safe_load((ROOT / "envoy/secrets.yaml").read_text())
    secrets: list[Any] = placeholders.fill(base, {"certificates": str(settings.certificates.resolve())})[
        "resources"
    ]
    if settings.tls_certificate is None or settings.tls_private_key is None:
        return secrets
    certificate = {
        "certificate_chain": {"filename": str(settings.tls_certificate.resolve())},
        "private_key": {"filename": str(settings.tls_private_key.resolve())},
        "watched_directory": {"path": str(settings.tls_certificate.resolve().parent)},
    }
    return [*secrets, {"@type": secrets[0]["@type"], "name": "listener", "tls_certificate": certificate}]


def _downstream_tls(settings: EdgeSettings, directory: Path) -> dict[str, Any] | None:
    if settings.tls_certificate is None:
        return None
    source = _file(directory / "secrets/listener.yaml")
    return {
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
            "common_tls_context": {
                "alpn_protocols": ["h2", "http/1.1"],
                "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
                "tls_certificate_sds_secret_configs": [{"name": "listener", "sds_config": source}],
            },
        },
    }


def _file(path: Path) -> dict[str, Any]:
    """A source of configuration that Envoy reads again whenever the file is replaced."""
    source = {"path": str(path), "watched_directory": {"path": str(path.parent)}}
    return {"resource_api_version": "V3", "path_config_source": source}


def _put(path: Path, tree: Any) -> Path:
    """Replaces a file atomically, and only when its content changes: each move wakes all watchers of the directory."""
    missing = placeholders.unfilled(tree)
    if missing:
        raise ValueError(f"{path.name}: no value for {', '.join(sorted(missing))}")
    text = yaml.dump(tree, Dumper=_Dumper, sort_keys=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_text() != text:
        files.write_private(path, text)
    return path


class _Dumper(yaml.CSafeDumper if hasattr(yaml, "CSafeDumper") else yaml.SafeDumper):  # type: ignore[misc]
    def ignore_aliases(self, data: Any) -> bool:
        return True


_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
