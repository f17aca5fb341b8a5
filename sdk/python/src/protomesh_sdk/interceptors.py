"""What happens around every call: metadata before it, a typed error after it."""

import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import grpc

from protomesh_sdk import contract
from protomesh_sdk.errors import from_call

Continuation = Callable[[grpc.ClientCallDetails, Any], Any]
Metadata = Sequence[tuple[str, str | bytes]]


class Details(NamedTuple):
    """grpc's ClientCallDetails, with other metadata."""

    method: str
    timeout: float | None
    metadata: Metadata
    credentials: grpc.CallCredentials | None
    wait_for_ready: bool | None
    compression: grpc.Compression | None


class _Intercepted(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    """Handles the four shapes of a call in the same way."""

    def intercept(self, continuation: Continuation, details: grpc.ClientCallDetails, request: Any) -> Any:
        raise NotImplementedError

    def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return self.intercept(continuation, client_call_details, request)

    def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return self.intercept(continuation, client_call_details, request)

    def intercept_stream_unary(
        self, continuation: Any, client_call_details: Any, request_iterator: Any
    ) -> Any:
        return self.intercept(continuation, client_call_details, request_iterator)

    def intercept_stream_stream(
        self, continuation: Any, client_call_details: Any, request_iterator: Any
    ) -> Any:
        return self.intercept(continuation, client_call_details, request_iterator)


def wants_token(details: grpc.ClientCallDetails) -> bool:
    """Whether the contract requires a token and the call has none."""
    return not contract.is_public(_text(details.method)) and not _has(details, "authorization")


def with_timeout(details: grpc.ClientCallDetails) -> Any:
    """Returns the details with the contract's timeout, unless the call has one."""
    if details.timeout is not None:
        return details
    return _with(details, timeout=contract.timeout(_text(details.method)))


def with_key(details: grpc.ClientCallDetails) -> Any:
    """Returns the details with a fresh idempotency key, where the contract takes one and the call has none."""
    if not contract.takes_key(_text(details.method)) or _has(details, "idempotency-key"):
        return details
    return _with(details, ("idempotency-key", str(uuid.uuid4())))


def with_token(details: grpc.ClientCallDetails, token: str) -> Any:
    """Returns the details with the access token, or unchanged when it is empty."""
    return _with(details, ("authorization", f"Bearer {token}")) if token else details


class Timeouts(_Intercepted):
    """Sets the timeout of the contract, unless the call has one."""

    def intercept(self, continuation: Continuation, details: grpc.ClientCallDetails, request: Any) -> Any:
        return continuation(with_timeout(details), request)


class Credentials(_Intercepted):
    """Adds the access token where the contract requires one, unless the call has one."""

    def __init__(self, access_token: Callable[[], str]) -> None:
        self._access_token = access_token

    def intercept(self, continuation: Continuation, details: grpc.ClientCallDetails, request: Any) -> Any:
        if wants_token(details):
            details = with_token(details, self._access_token())
        return continuation(details, request)


class IdempotencyKeys(_Intercepted):
    """Adds a fresh key where the contract takes one, unless the call has one; retries of the call keep it."""

    def intercept(self, continuation: Continuation, details: grpc.ClientCallDetails, request: Any) -> Any:
        return continuation(with_key(details), request)


class Errors(_Intercepted):
    """Raises MeshError where grpc would raise RpcError."""

    def intercept(self, continuation: Continuation, details: grpc.ClientCallDetails, request: Any) -> Any:
        call = continuation(details, request)
        if hasattr(call, "__next__"):
            return Stream(call)
        if isinstance(call.exception(), grpc.RpcError):
            raise from_call(call)
        return call


class Stream:
    """The messages of a streaming call; `cancel()` ends it early."""

    def __init__(self, call: Any) -> None:
        self._call = call

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        try:
            return next(self._call)
        except grpc.RpcError as error:
            raise from_call(self._call) from error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call, name)


def _has(details: grpc.ClientCallDetails, key: str) -> bool:
    return any(name.lower() == key for name, _ in details.metadata or ())


def _with(details: grpc.ClientCallDetails, *pairs: tuple[str, str], timeout: float | None = None) -> Any:
    return Details(
        details.method,
        details.timeout if timeout is None else timeout,
        [*(details.metadata or ()), *pairs],
        details.credentials,
        details.wait_for_ready,
        getattr(details, "compression", None),
    )


def _text(method: str | bytes) -> str:
    return method.decode() if isinstance(method, bytes) else method
