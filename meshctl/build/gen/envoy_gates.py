"""Gates at the edge: how many calls of an RPC that may take long run at once, by how long they take."""

from collections.abc import Iterable
from typing import Any

from chassis.contract import DEFAULT_TIMEOUT, MethodContract

# What half of an RPC's calls may take, in seconds; the service too takes longer ones for late
# (chassis/rpc/stages/admission.py).
_IN_TIME = 1.0


def name(method: MethodContract) -> str:
    """Returns the name of an RPC's gate."""
    return f"gate_{method.full_name}"


def has_gate(method: MethodContract) -> bool:
    """Whether an RPC's calls pass a gate of its own: those that may take long, except streams, which mostly sleep."""
    return method.timeout > DEFAULT_TIMEOUT and not (method.client_streaming or method.server_streaming)


def filters(methods: Iterable[MethodContract]) -> list[dict[str, Any]]:
    """Returns the gates as Envoy's filters. The routes of an RPC enable its own."""
    return [_gate(method) for method in sorted(methods, key=name) if has_gate(method)]


def _gate(method: MethodContract) -> dict[str, Any]:
    kind = "type.googleapis.com/envoy.extensions.filters.http.adaptive_concurrency.v3.AdaptiveConcurrency"
    controller = {
        "concurrency_limit_params": {
            "max_concurrency_limit": "${setting.maximum_long_requests}",
            "concurrency_update_interval": "0.25s",
        },
        # Fixed, since to measure it Envoy would stop nearly all calls now and then. The gate begins with the minimum.
        "min_rtt_calc_params": {
            "fixed_value": f"{_IN_TIME}s",
            "buffer": {"value": 0},
            "min_concurrency": "${setting.minimum_long_requests}",
        },
        "sample_aggregate_percentile": {"value": 50},
    }
    return {
        "name": name(method),
        "disabled": True,
        "typed_config": {"@type": kind, "gradient_controller_config": controller},
    }
