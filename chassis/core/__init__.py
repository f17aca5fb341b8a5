"""The base of every other room: errors, settings, tasks, identifiers and moments."""

from chassis.core import errors
from chassis.core.errors import (
    Aborted,
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    MeshError,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
    from_rpc,
    overloaded,
    reason_of,
    status_of,
)
from chassis.core.identifiers import uuid7
from chassis.core.moments import timestamp
from chassis.core.settings import Role, Settings, ValkeySettings
from chassis.core.tasks import Worker, checkpoint, repeat

__all__ = [
    "Aborted",
    "AlreadyExists",
    "FailedPrecondition",
    "InvalidArgument",
    "MeshError",
    "NotFound",
    "PermissionDenied",
    "ResourceExhausted",
    "Role",
    "Settings",
    "Unauthenticated",
    "Unavailable",
    "ValkeySettings",
    "Worker",
    "checkpoint",
    "errors",
    "from_rpc",
    "overloaded",
    "reason_of",
    "repeat",
    "status_of",
    "timestamp",
    "uuid7",
]
