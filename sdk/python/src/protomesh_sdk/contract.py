"""What a client reads from the contracts: retries, timeouts, and which calls take an idempotency key."""

import functools
import json
from importlib import resources
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool
from protomesh.options.v1 import options_pb2


def service_config() -> str:
    """Returns one gRPC service config for all services, since the edge is the only server that a client sees.

    It has no timeouts, since every call sets its own: gRPC's core counts those of the config from a coarse clock,
    and ends a call up to a second early.
    """
    methods = [{key: value for key, value in one.items() if key != "timeout"} for one in _methods()]
    return json.dumps({"methodConfig": methods, "retryThrottling": _configs()[0]["retryThrottling"]})


def timeout(path: str) -> float | None:
    """Returns the seconds that the RPC at a path such as `/protomesh.ordering.v1.OrderService/PlaceOrder` may take."""
    return _timeouts().get(path)


@functools.cache
def takes_key(path: str) -> bool:
    """Whether the RPC at a path such as `/protomesh.ordering.v1.OrderService/PlaceOrder` takes an idempotency key."""
    source: options_pb2.IdempotencyKey.ValueType = _options(path).Extensions[options_pb2.idempotency_key]
    return source in (options_pb2.required_header, options_pb2.optional_header)


@functools.cache
def is_public(path: str) -> bool:
    """Whether the RPC at a path is public, so that it needs no token."""
    access: options_pb2.Access = _options(path).Extensions[options_pb2.access]
    return access.public


@functools.cache
def _timeouts() -> dict[str, float]:
    return {
        f"/{name['service']}/{name['method']}": float(method["timeout"].removesuffix("s"))
        for method in _methods()
        for name in method["name"]
    }


def _methods() -> list[dict[str, Any]]:
    return [method for config in _configs() for method in config["methodConfig"]]


@functools.cache
def _configs() -> list[dict[str, Any]]:
    folder = resources.files("protomesh_sdk") / "service_config"
    return [json.loads(file.read_text()) for file in folder.iterdir() if file.name.endswith(".json")]


def _options(path: str) -> descriptor_pb2.MethodOptions:
    service, _, method = path.lstrip("/").rpartition("/")
    return descriptor_pool.Default().FindServiceByName(service).methods_by_name[method].GetOptions()
