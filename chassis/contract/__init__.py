"""Policy, read from the descriptors: methods and their options, and event types."""

from chassis.contract.client_config import service_config
from chassis.contract.descriptors import reachable
from chassis.contract.event_content import published
from chassis.contract.event_types import (
    DEAD_LETTERS,
    EVERY_SERVICE,
    all_event_types,
    event_type,
    stream_subjects,
)
from chassis.contract.methods import (
    ADMIN,
    ANY_WORKLOAD,
    DEFAULT_MAX_REQUEST_BYTES,
    DEFAULT_TIMEOUT,
    ContractError,
    HttpBinding,
    MethodContract,
)
from chassis.contract.registry import (
    files,
    method_at,
    methods_of,
    permissions,
    permissions_of,
    platform,
    register,
    service_descriptor,
    unregister,
)

__all__ = [
    "ADMIN",
    "ANY_WORKLOAD",
    "DEAD_LETTERS",
    "DEFAULT_MAX_REQUEST_BYTES",
    "DEFAULT_TIMEOUT",
    "EVERY_SERVICE",
    "ContractError",
    "HttpBinding",
    "MethodContract",
    "all_event_types",
    "event_type",
    "files",
    "method_at",
    "methods_of",
    "permissions",
    "permissions_of",
    "platform",
    "published",
    "reachable",
    "register",
    "service_config",
    "service_descriptor",
    "stream_subjects",
    "unregister",
]
