"""How a call fails: one class for each canonical code.

MeshError
├── InvalidArgument      the request breaks its contract or makes no sense
├── NotFound             no such thing, or none that this caller may see
├── AlreadyExists        a thing with this name is there already
├── Unauthenticated      no token, or none that is good
├── PermissionDenied     the caller is known and may not
├── FailedPrecondition   the state of things forbids it; repeating changes nothing
├── Aborted              somebody else was faster; read again and repeat
├── ResourceExhausted    too much, or too often
├── Unavailable          a part cannot be reached now; repeat later
├── DeadlineExceeded     the time was up
├── Unimplemented        there is no such RPC
└── Internal             a fault of ours
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
    """There is no such thing, or none that this caller may see."""

    code = grpc.StatusCode.NOT_FOUND


class AlreadyExists(MeshError):
    """A thing with this name is there already."""

    code = grpc.StatusCode.ALREADY_EXISTS


class Unauthenticated(MeshError):
    """No token was sent, or none that is good."""

    code = grpc.StatusCode.UNAUTHENTICATED


class PermissionDenied(MeshError):
    """The caller is known and may not."""

    code = grpc.StatusCode.PERMISSION_DENIED


class FailedPrecondition(MeshError):
    """The state of things forbids it; repeating the call changes nothing."""

    code = grpc.StatusCode.FAILED_PRECONDITION


class Aborted(MeshError):
    """Somebody else was faster; the caller may read again and repeat."""

    code = grpc.StatusCode.ABORTED


class ResourceExhausted(MeshError):
    """Too much, or too often. `violations` name the quotas."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED

    def _violations(self) -> error_details_pb2.QuotaFailure:
        violation = error_details_pb2.QuotaFailure.Violation
        return error_details_pb2.QuotaFailure(
            violations=[violation(subject=subject, description=text) for subject, text in self.violations]
        )


class Unavailable(MeshError):
    """A part that the call needs cannot be reached now."""

    code = grpc.StatusCode.UNAVAILABLE


class DeadlineExceeded(MeshError):
    """The time was up before the answer was there."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED


class Unimplemented(MeshError):
    """There is no such RPC."""

    code = grpc.StatusCode.UNIMPLEMENTED


class Internal(MeshError):
    """A fault of ours."""

    code = grpc.StatusCode.INTERNAL


_CLASSES: Mapping[int, type[MeshError]] = {cls.code.value[0]: cls for cls in MeshError.__subclasses__()}


def internal() -> Internal:
    """The answer to a fault of ours: it says nothing about it."""
    return Internal("INTERNAL", "Something went wrong on our side.")


def deadline_exceeded() -> DeadlineExceeded:
    """The answer when the time was up."""
    return DeadlineExceeded("DEADLINE_EXCEEDED", "The deadline passed before the answer was there.")


def unavailable() -> Unavailable:
    """The answer when a part that the call needs cannot be reached."""
    return Unavailable("DEPENDENCY_UNAVAILABLE", "A part that this call needs cannot be reached now.")


def overloaded() -> ResourceExhausted:
    """The server has as many calls as it takes, or too many to come to this one in time."""
    return ResourceExhausted("OVERLOADED", "The server is busy; try again in a moment.", retry_after=1.0)


def conflict() -> Aborted:
    """The answer when a concurrent transaction got in the way."""
    return Aborted("CONFLICT", "A concurrent change got in the way; try again.", retry_after=0.1)


def status_of(error: grpc.aio.AioRpcError) -> status_pb2.Status:
    """The `google.rpc.Status` that a failed call carries; code and message alone when it carries none."""
    for key, value in error.trailing_metadata() or ():
        if key == STATUS_DETAILS and isinstance(value, bytes):
            return status_pb2.Status.FromString(value)
    number: int = error.code().value[0]
    return status_pb2.Status(code=number, message=error.details() or "")


def reason_of(error: BaseException) -> str:
    """The reason in an error's ErrorInfo, whether raised here or come through a stub; "" if there is none."""
    if isinstance(error, MeshError):
        return error.reason
    return _error_info(status_of(error)).reason if isinstance(error, grpc.aio.AioRpcError) else ""


def from_rpc(error: grpc.aio.AioRpcError) -> MeshError:
    """A failed call through a stub as the MeshError that the server raised."""
    return from_status(status_of(error))


def from_status(status: status_pb2.Status) -> MeshError:
    """A status as the MeshError that it was made of."""
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
