"""How a call fails: one class for each canonical code.

MeshError
├── InvalidArgument      the request breaks its contract or makes no sense
├── NotFound             the resource does not exist, or this caller may not see it
├── AlreadyExists        a resource with this name already exists
├── Unauthenticated      the token is missing or not valid
├── PermissionDenied     the caller is known but not allowed
├── FailedPrecondition   the current state forbids the call; repeating it does not help
├── Aborted              a concurrent change won; read again and repeat
├── ResourceExhausted    too large, or too often
├── Unavailable          a dependency is not reachable now; repeat later
├── DeadlineExceeded     the deadline passed
├── Unimplemented        the RPC does not exist
└── Internal             a fault on our side
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

import grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2

DOMAIN = "protomesh"
STATUS_DETAILS = "grpc-status-details-bin"

Violation = tuple[str, str]


class MeshError(Exception):
    """A failure that a caller sees: a canonical code, a reason for programs, a sentence for people.

    `violations` are (field or quota subject, description) pairs; `retry_after` is in seconds.
    """

    code: ClassVar[grpc.StatusCode] = grpc.StatusCode.INTERNAL

    def __init__(
        self,
        reason: str,
        message: str,
        *,
        metadata: Mapping[str, str] | None = None,
        violations: Sequence[Violation] = (),
        retry_after: float | None = None,
    ) -> None:
        super().__init__(reason, message)
        self.reason = reason
        self.message = message
        self.metadata = dict(metadata or {})
        self.violations = tuple(violations)
        self.retry_after = retry_after

    def status(self) -> status_pb2.Status:
        """The failure as `google.rpc.Status`, always with ErrorInfo."""
        number: int = self.code.value[0]
        status = status_pb2.Status(code=number, message=self.message)
        info = error_details_pb2.ErrorInfo(reason=self.reason, domain=DOMAIN, metadata=self.metadata)
        status.details.add().Pack(info)
        if self.violations:
            status.details.add().Pack(self._violations())
        if self.retry_after is not None:
            status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=_duration(self.retry_after)))
        return status

    def _violations(self) -> error_details_pb2.BadRequest | error_details_pb2.QuotaFailure:
        violation = error_details_pb2.BadRequest.FieldViolation
        return error_details_pb2.BadRequest(
            field_violations=[violation(field=field, description=text) for field, text in self.violations]
        )


class InvalidArgument(MeshError):
    """The request breaks its contract or makes no sense."""

    code = grpc.StatusCode.INVALID_ARGUMENT


class NotFound(MeshError):
    """The resource does not exist, or this caller may not see it."""

    code = grpc.StatusCode.NOT_FOUND


class AlreadyExists(MeshError):
    """A resource with this name already exists."""

    code = grpc.StatusCode.ALREADY_EXISTS


class Unauthenticated(MeshError):
    """The token is missing or not valid."""

    code = grpc.StatusCode.UNAUTHENTICATED


class PermissionDenied(MeshError):
    """The caller is known but not allowed."""

    code = grpc.StatusCode.PERMISSION_DENIED


class FailedPrecondition(MeshError):
    """The current state forbids the call; repeating it does not help."""

    code = grpc.StatusCode.FAILED_PRECONDITION


class Aborted(MeshError):
    """A concurrent change won; the caller may read again and repeat the call."""

    code = grpc.StatusCode.ABORTED


class ResourceExhausted(MeshError):
    """The request is too large, or requests come too often. `violations` name the quotas."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED

    def _violations(self) -> error_details_pb2.QuotaFailure:
        violation = error_details_pb2.QuotaFailure.Violation
        return error_details_pb2.QuotaFailure(
            violations=[violation(subject=subject, description=text) for subject, text in self.violations]
        )


class Unavailable(MeshError):
    """A dependency of the call is not reachable now."""

    code = grpc.StatusCode.UNAVAILABLE


class DeadlineExceeded(MeshError):
    """The deadline passed before the response was ready."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED


class Unimplemented(MeshError):
    """The RPC does not exist."""

    code = grpc.StatusCode.UNIMPLEMENTED


class Internal(MeshError):
    """A fault on our side."""

    code = grpc.StatusCode.INTERNAL


_CLASSES: Mapping[int, type[MeshError]] = {cls.code.value[0]: cls for cls in MeshError.__subclasses__()}


def internal() -> Internal:
    """The error for a fault on our side; it reveals nothing about the fault."""
    return Internal("INTERNAL", "Something went wrong on our side.")


def deadline_exceeded() -> DeadlineExceeded:
    """The error for a call whose deadline passed."""
    return DeadlineExceeded("DEADLINE_EXCEEDED", "The deadline passed before the response was ready.")


def unavailable() -> Unavailable:
    """The error for a call that needs a dependency that is not reachable."""
    return Unavailable(
        "DEPENDENCY_UNAVAILABLE", "A service that this call depends on is not reachable; try again."
    )


def overloaded() -> ResourceExhausted:
    """The error for a call that the server has no capacity for, now or before the deadline."""
    return ResourceExhausted("OVERLOADED", "The server is busy; try again in a moment.", retry_after=1.0)


def conflict() -> Aborted:
    """The error for a call that conflicted with a concurrent transaction."""
    return Aborted("CONFLICT", "The call conflicted with a concurrent change; try again.", retry_after=0.1)


def status_of(error: grpc.aio.AioRpcError) -> status_pb2.Status:
    """The `google.rpc.Status` that a failed call carries; only code and message when it carries none."""
    for key, value in error.trailing_metadata() or ():
        if key == STATUS_DETAILS and isinstance(value, bytes):
            return status_pb2.Status.FromString(value)
    number: int = error.code().value[0]
    return status_pb2.Status(code=number, message=error.details() or "")


def reason_of(error: BaseException) -> str:
    """The reason in an error's ErrorInfo, whether raised here or received through a stub; "" if it has none."""
    if isinstance(error, MeshError):
        return error.reason
    return _error_info(status_of(error)).reason if isinstance(error, grpc.aio.AioRpcError) else ""


def from_rpc(error: grpc.aio.AioRpcError) -> MeshError:
    """Converts the error of a call through a stub to the MeshError that the server raised."""
    return from_status(status_of(error))


def from_status(status: status_pb2.Status) -> MeshError:
    """Converts a status to the MeshError that it was made from."""
    info = _error_info(status)
    return _CLASSES.get(status.code, Internal)(
        info.reason,
        status.message,
        metadata=info.metadata,
        violations=tuple(_read_violations(status)),
        retry_after=_read_retry_after(status),
    )


def _error_info(status: status_pb2.Status) -> error_details_pb2.ErrorInfo:
    info = error_details_pb2.ErrorInfo()
    any(detail.Unpack(info) for detail in status.details)
    return info


def _read_violations(status: status_pb2.Status) -> Iterator[Violation]:
    request, quota = error_details_pb2.BadRequest(), error_details_pb2.QuotaFailure()
    for detail in status.details:
        if detail.Unpack(request):
            yield from ((violation.field, violation.description) for violation in request.field_violations)
        elif detail.Unpack(quota):
            yield from ((violation.subject, violation.description) for violation in quota.violations)


def _read_retry_after(status: status_pb2.Status) -> float | None:
    retry = error_details_pb2.RetryInfo()
    if any(detail.Unpack(retry) for detail in status.details):
        return float(retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9)
    return None


def _duration(seconds: float) -> Duration:
    whole = math.floor(seconds)
    return Duration(seconds=whole, nanos=round((seconds - whole) * 1e9))
