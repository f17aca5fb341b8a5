"""The current call: who calls, under which contract, and how much time is left."""

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, Protocol
from uuid import UUID

import grpc

from chassis.contract.methods import MethodContract
from chassis.core.errors import Aborted, MeshError
from chassis.core.identifiers import uuid7

EDGE = "edge"


class Caller:
    """The caller: the person behind the token, if there is one, and the workload behind the certificate.

    `user_id`, `role` and `session_id` are "" without a token; `workload`, the SPIFFE name of the peer, is ""
    without mTLS.
    """

    __slots__ = ("_workload", "permissions", "role", "session_id", "token", "user_id")

    def __init__(
        self,
        user_id: str = "",
        role: str = "",
        permissions: frozenset[str] = frozenset(),
        session_id: str = "",
        workload: str | Callable[[], str] = "",
        token: str = "",
    ) -> None:
        self.user_id = user_id
        self.role = role
        self.permissions = permissions
        self.session_id = session_id
        self._workload = workload
        self.token = token

    @property
    def workload(self) -> str:
        """The SPIFFE name of the peer. It is read from the certificate on first use, since most calls never need it."""
        if not isinstance(self._workload, str):
            self._workload = self._workload()
        return self._workload

    def release(self) -> None:
        """Lets go of the peer, of whom nothing can be read after the call's end."""
        if not isinstance(self._workload, str):
            self._workload = _too_late

    @property
    def id(self) -> UUID:
        """The id of the person behind the token, as columns hold it. Raises ValueError without a token."""
        return UUID(self.user_id)

    def may(self, permission: str) -> bool:
        """Whether the caller's roles grant a permission."""
        return permission in self.permissions

    @property
    def principal(self) -> str:
        """The name that idempotency keys, quotas and audit records are kept under."""
        return f"user:{self.user_id}" if self.user_id else f"workload:{self.workload}"


def _too_late() -> str:
    raise RuntimeError("The workload was first read after the call's end; read it while the call runs.")


NOBODY = Caller()


class Limit(Protocol):
    """The time limit of a call."""

    def expired(self) -> bool:
        """Whether this limit, and nothing else, cancelled the call."""


class Call:
    """One call, from its arrival to its answer. Handlers read it; the pipeline's stages fill it in."""

    # Defaults on the class, since an attribute that is never set costs a call nothing.
    caller = NOBODY
    # Whether the contract's access is `self` and the caller holds its permission: the handler's queries are then not
    # scoped to the caller.
    privileged = False
    # By the clock of `time.monotonic`, which the event loop uses too; set by the deadline stage.
    deadline = float("inf")
    # Ends the call at its deadline; set by the deadline stage.
    limit: Limit | None = None
    # How the call ended, and the error if it failed; both are known when the functions given to `at_end` run.
    code = grpc.StatusCode.CANCELLED
    failure: MeshError | None = None
    # Awaited before a failure is sent; set by the audit stage.
    on_failure: Callable[["Call"], Awaitable[None]] | None = None
    # Initial metadata of the answer, sent with it.
    headers: Sequence[tuple[str, str]] = ()
    # The claim of the call's idempotency key; set by the idempotency stage.
    idempotency: Any = None
    span: Any = None
    _operation_id = ""

    def __init__(self, method: MethodContract, metadata: Mapping[str, str], context: Any = None) -> None:
        self.method = method
        self.metadata = metadata
        self.context = context
        self.arrived = time.monotonic()
        self._ends: list[Callable[[Call], None]] = []

    @property
    def operation_id(self) -> str:
        """A UUIDv7 as text: stable across retries with one idempotency key, new for each call otherwise."""
        if not self._operation_id:
            self._operation_id = str(uuid7())
        return self._operation_id

    @operation_id.setter
    def operation_id(self, value: str) -> None:
        self._operation_id = value

    @property
    def resumes(self) -> bool:
        """Whether an earlier call with the same idempotency key began the work and did not finish it."""
        return self.idempotency is not None and bool(self.idempotency.resumes)

    @property
    def address(self) -> str:
        """The client's address as the edge saw it; "" unless the edge itself is the peer."""
        if self.caller.workload != EDGE:
            return ""
        # The edge appends the address of its peer, so only the last entry can be trusted.
        return self.metadata.get("x-forwarded-for", "").rpartition(",")[2].strip()

    def remaining(self) -> float:
        """Returns the seconds until the deadline; never negative, infinite outside a served call."""
        if self.deadline == float("inf"):
            return self.deadline
        return max(0.0, self.deadline - time.monotonic())

    def at_end(self, finish: Callable[["Call"], None]) -> None:
        """Runs `finish` as soon as the call's outcome is known, whatever it is; the last one added runs first."""
        self._ends.append(finish)

    def end(self, code: grpc.StatusCode) -> None:
        """Sets the outcome and runs the functions that were given to `at_end`."""
        self.code = code
        while self._ends:
            self._ends.pop()(self)

    def set_header(self, key: str, value: str) -> None:
        """Adds a header to the answer (lower-case key). Must be called before a stream's first message."""
        self.headers = (*self.headers, (key, value))

    def match_etag(self, version: int, etag: str = "") -> None:
        """Raises Aborted ETAG_MISMATCH unless the change is based on this version.

        The base is the request's `etag` or the `if-match` header; without either, or with `*`, any version matches.
        """
        sent = etag or self.metadata.get("if-match", "")
        # The part after a dot distinguishes states of the same version, such as a product's stock.
        meant = {each.strip().removeprefix("W/").strip('"').partition(".")[0] for each in sent.split(",")}
        if meant.isdisjoint(("", "*", str(version))):
            raise Aborted(
                "ETAG_MISMATCH", "The resource was changed since you read it; read it again and retry."
            )


current_call: ContextVar[Call | None] = ContextVar("current_call", default=None)
