"""A client of Protomesh. Start with `Mesh` or `AsyncMesh`; everything else is a stub, a message or an error."""

from protomesh_sdk import reasons
from protomesh_sdk.aio import AsyncMesh
from protomesh_sdk.errors import (
    Aborted,
    AlreadyExists,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    MeshError,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
    Violation,
)
from protomesh_sdk.mesh import Mesh
from protomesh_sdk.pages import rows

__all__ = [
    "Aborted",
    "AlreadyExists",
    "AsyncMesh",
    "DeadlineExceeded",
    "FailedPrecondition",
    "InvalidArgument",
    "Mesh",
    "MeshError",
    "NotFound",
    "PermissionDenied",
    "ResourceExhausted",
    "Unauthenticated",
    "Unavailable",
    "Violation",
    "reasons",
    "rows",
]
