"""The errors of a call: one class for each canonical code that the mesh uses.

MeshError
├── InvalidArgument     the request breaks its contract
├── NotFound            the resource does not exist, or you may not see it
├── AlreadyExists       a resource with that name exists already
├── PermissionDenied    you may not do this
├── Unauthenticated     sign in first, or again
├── FailedPrecondition  the current state does not allow it
├── Aborted             a concurrent change came first; read again and repeat
├── ResourceExhausted   too many requests; wait `retry_after` seconds
├── Unavailable         the mesh cannot be reached now; try again later
└── DeadlineExceeded    no response in time; the call may have taken effect

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
    """A call that failed. Programs branch on `reason`; see the reference of error reasons."""

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
    """The resource does not exist, or you may not see it."""


class AlreadyExists(MeshError):
    """A resource with that name exists already."""


class PermissionDenied(MeshError):
    """You may not do this."""


class Unauthenticated(MeshError):
    """Sign in first, or again."""


class FailedPrecondition(MeshError):
    """The current state does not allow it."""


class Aborted(MeshError):
    """A concurrent change came first, or the same call is still running; repeat it after `retry_after` seconds."""


class ResourceExhausted(MeshError):
    """Too many requests; wait `retry_after` seconds."""


class Unavailable(MeshError):
    """The mesh cannot be reached now; try again later."""


class DeadlineExceeded(MeshError):
    """No response in time; the call may have taken effect."""


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
    """Returns the error of a failed call, with its details."""
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
    # A newer server may use a known reason with another code; then callers rely on the code.
    return (kind if issubclass(kind, of_code) else of_code)(
        code,
        call.details() or "",
        reason=info.reason,
        metadata=info.metadata,
        violations=[Violation(each.field, each.description) for each in request.field_violations],
        retry_after=retry_after,
    )
