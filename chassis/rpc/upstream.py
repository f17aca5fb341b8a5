"""Upstreams: the connections to the processes of another deployable."""

import asyncio
import json
from typing import Any

import grpc

from chassis.contract.client_config import service_config
from chassis.trust.certificates import Certificates

# What running calls get when a channel is replaced.
_CLOSE_SECONDS = 30.0

# A peer that hangs keeps its connections open and sends nothing. A ping detects it within 4 s, whether or not calls
# run; its calls then end as UNAVAILABLE, and the other peers get the next ones. By default, the core waits a whole
# minute for a ping of its own (a bandwidth probe) and holds ours back meanwhile.
_PING_MS = 2_000
_PING_TIMEOUT_MS = 2_000

_OPTIONS = (
    ("grpc.keepalive_time_ms", _PING_MS),
    ("grpc.keepalive_timeout_ms", _PING_TIMEOUT_MS),
    ("grpc.http2.ping_timeout_ms", _PING_TIMEOUT_MS),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_receive_message_length", 16 * 1024 * 1024),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.enable_retries", 1),
)

# Detects what pings cannot: a worker whose event loop is blocked, or that fails all calls while others do not. The core
# counts every status but OK, so only a worker that fails nearly all of many calls is ejected, for a short time, and
# never more than half of the workers.
_OUTLIERS = {
    "interval": "2s",
    "baseEjectionTime": "3s",
    "maxEjectionTime": "30s",
    "maxEjectionPercent": 50,
    "failurePercentageEjection": {"threshold": 90, "minimumHosts": 2, "requestVolume": 5},
    "childPolicy": [{"round_robin": {}}],
}


class Upstream:
    """The channel to one deployable: balanced over endpoints, opened on first use, renewed with the certificates."""

    def __init__(self, deployable: str, target: str, certificates: Certificates | None) -> None:
        self._deployable = deployable
        self._target = target
        self._certificates = certificates
        # Computed here and not at the first call, since it reads the contracts of the whole platform.
        self._options = (*_OPTIONS, ("grpc.service_config", json.dumps(_config(deployable))))
        self._channel: grpc.aio.Channel | None = None
        self._generation = 0
        self._closing: set[asyncio.Task[None]] = set()

    def channel(self) -> grpc.aio.Channel:
        """Returns the current channel. A new one takes over when certificates were renewed; running calls finish."""
        generation = self._certificates.generation() if self._certificates else 0
        if self._channel is None:
            self._channel = self._open()
        elif generation != self._generation:
            task = asyncio.get_running_loop().create_task(self._channel.close(_CLOSE_SECONDS))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
            self._channel = self._open()
        self._generation = generation
        return self._channel

    def _open(self) -> grpc.aio.Channel:
        if self._certificates is None:
            return grpc.aio.insecure_channel(self._target, self._options)
        credentials = self._certificates.channel_credentials()
        name = ("grpc.ssl_target_name_override", self._deployable)
        return grpc.aio.secure_channel(self._target, credentials, (*self._options, name))

    async def close(self, grace: float | None) -> None:
        """Closes the connections."""
        for task in self._closing:
            task.cancel()
        if self._channel is not None:
            await self._channel.close(grace)
            self._channel = None


def _config(deployable: str) -> dict[str, Any]:
    """Returns the service config with outlier detection, and without timeouts, since every call sets its own.

    gRPC's C core measures the config's timeouts by a coarse clock, which can be more than a second off.
    """
    config = service_config(deployable)
    config["loadBalancingConfig"].insert(0, {"outlier_detection_experimental": _OUTLIERS})
    for method in config["methodConfig"]:
        del method["timeout"]
    return config
