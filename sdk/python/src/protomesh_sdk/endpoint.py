"""Where the mesh is, and how a channel to it behaves."""

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import grpc

from protomesh_sdk import contract


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A gRPC target and its credentials; None for plain text."""

    target: str
    credentials: grpc.ChannelCredentials | None


def at(url: str, root_certificates: bytes | None) -> Endpoint:
    """Returns the endpoint of a URL such as `https://api.example.com`. Raises ValueError when it is not such a URL."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"Not a URL of the mesh: {url!r}. Give one such as https://api.example.com.")
    secure = parts.scheme == "https"
    target = f"{parts.hostname}:{parts.port or (443 if secure else 80)}"
    return Endpoint(target, grpc.ssl_channel_credentials(root_certificates) if secure else None)


def options() -> list[tuple[str, Any]]:
    """Returns channel options: the contracts' retries, and pings that find a dead connection."""
    return [
        ("grpc.service_config", contract.service_config()),
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
    ]
