"""Client behavior: the gRPC service config, derived from the contracts of a service."""

from collections.abc import Iterable
from typing import Any

from chassis.contract.methods import MethodContract
from chassis.contract.registry import platform


def service_config(deployable: str) -> dict[str, Any]:
    """The gRPC service config for clients of a deployable: load balancing, timeouts, safe retries."""
    return channel_config(method for method in platform() if method.deployable == deployable)


def channel_config(methods: Iterable[MethodContract]) -> dict[str, Any]:
    """The gRPC service config for these RPCs. It turns on health checks, so a draining server gets no new calls."""
    return {
        "loadBalancingConfig": [{"round_robin": {}}],
        "healthCheckConfig": {"serviceName": ""},
        "methodConfig": [_method_config(method) for method in methods],
        "retryThrottling": {"maxTokens": 10, "tokenRatio": 0.1},
    }


def _method_config(method: MethodContract) -> dict[str, Any]:
    config: dict[str, Any] = {
        "name": [{"service": method.service, "method": method.name}],
        "timeout": f"{method.timeout:g}s",
    }
    if method.retryable:
        config["retryPolicy"] = {
            "maxAttempts": 3,
            "initialBackoff": "0.05s",
            "maxBackoff": "0.5s",
            "backoffMultiplier": 3,
            "retryableStatusCodes": ["UNAVAILABLE"],
        }
    return config
