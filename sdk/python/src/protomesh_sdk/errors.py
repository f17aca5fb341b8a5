"""What can go wrong, one class for each canonical code that the mesh gives.

MeshError
├── InvalidArgument     the request breaks its contract
├── NotFound            there is no such thing, or you may not see it
├── AlreadyExists       something with that name is there already
├── PermissionDenied    you may not do this
├── Unauthenticated     sign in first, or again
├── FailedPrecondition  the state of things does not allow it
├── Aborted             somebody else was faster; read again and repeat
├── ResourceExhausted   too many requests; wait `retry_after` seconds
├── Unavailable         the mesh cannot be reached now; repeating later is right
└── DeadlineExceeded    the answer did not come in time; what became of the call is unknown

Below them, `protomesh_sdk.reasons` has a class for each reason of the contracts: `except OutOfStock`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import grpc
import grpc.aio
from google.rpc import error_details_pb2, status_pb2

STATUS_KEY = "grpc-status-details-bin"


@dataclass(frozen=True, slots=True)
class Violation:
    """A field that breaks the contract: its path, such as `lines[0].quantity`, and how."""

    field: str
    description: str


class MeshError(Exception):
    """A call failed. `reason` names why, for programs; see the reference of error reasons."""

    by_reason: ClassVar[dict[str, type["MeshError"]]] = {}

    def __init_subclass__(cls, *, reason: str = "") -> None:
        if reason:
            MeshError.by_reason[reason] = cls

    def __init__(
        self,
        code: grpc.StatusCode,
        message: str,
        *,
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
        violations: Iterable[Violation] = (),
        retry_after: float | None = None,
    ) -> None:
        super().__init__(f"{code.name} {reason}: {message}" if reason else f"{code.name}: {message}")
        self.code = code
        self.message = message
        self.reason = reason
        self.metadata = dict(metadata or {})
        self.violations = list(violations)
        self.retry_after = retry_after


class InvalidArgument(MeshError):
    """The request breaks its contract; `violations` says where."""


class NotFound(MeshError):
    """There is no such thing, or you may not see it."""


class AlreadyExists(MeshError):
    """Something with that name is there already."""


class PermissionDenied(MeshError):
    """You may not do this."""


class Unauthenticated(MeshError):
    """Sign in first, or again."""


class FailedPrecondition(MeshError):
    """The state of things does not allow it."""


class Aborted(MeshError):
    """Somebody else was faster, or the same call is still running; after `retry_after` seconds repeat it."""


class ResourceExhausted(MeshError):
    """Too many requests; wait `retry_after` seconds."""


class Unavailable(MeshError):
    """The mesh cannot be reached now; repeating later is right."""


class DeadlineExceeded(MeshError):
    """The answer did not come in time; what became of the call is unknown."""


_BY_CODE: Mapping[grpc.StatusCode, type[MeshError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidArgument,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.ALREADY_EXISTS: AlreadyExists,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDenied,
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
    grpc.StatusCode.FAILED_PRECONDITION: FailedPrecondition,
    grpc.StatusCode.ABORTED: Aborted,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ResourceExhausted,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
}


def from_call(call: grpc.Call | grpc.aio.AioRpcError) -> MeshError:
    """The error that a failed call ended with, details included."""
    code = call.code()
    trailers = dict(call.trailing_metadata() or ())
    status = status_pb2.Status()
    if isinstance(encoded := trailers.get(STATUS_KEY), bytes):
        status.ParseFromString(encoded)
    info, request, retry = (
        error_details_pb2.ErrorInfo(),
        error_details_pb2.BadRequest(),
        error_details_pb2.RetryInfo(),
    )
    retry_after = None
    for detail in status.details:
        detail.Unpack(info)
        detail.Unpack(request)
        if detail.Unpack(retry):
            retry_after = retry.retry_delay.ToTimedelta().total_seconds()
    kind = MeshError.by_reason.get(info.reason, MeshError)
    of_code = _BY_CODE.get(code, MeshError)
    # A newer server may give a known reason with another code; then the code is what callers rely on.
    return (kind if issubclass(kind, of_code) else of_code)(
        code,
        call.details() or "",
        reason=info.reason,
        metadata=info.metadata,
        violations=[Violation(each.field, each.description) for each in request.field_violations],
        retry_after=retry_after,
    )
