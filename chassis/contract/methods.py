"""What a contract says about an RPC, read once from its descriptors; only this module reads the options."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from google.api import annotations_pb2, http_pb2
from google.protobuf import descriptor_pb2, message_factory
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from protomesh.options.v1 import options_pb2

DEFAULT_TIMEOUT = 2.0
DEFAULT_MAX_REQUEST_BYTES = 1024 * 1024
ADMIN = "admin"
ANY_WORKLOAD = "*"

AccessKind = Literal["public", "authenticated", "permission", "internal", "self"]
IdempotencyLevel = Literal["unknown", "no_side_effects", "idempotent"]
KeySource = Literal["none", "required_header", "optional_header", "request_field"]

_LEVELS: Mapping[int, IdempotencyLevel] = {
    descriptor_pb2.MethodOptions.IDEMPOTENCY_UNKNOWN: "unknown",
    descriptor_pb2.MethodOptions.NO_SIDE_EFFECTS: "no_side_effects",
    descriptor_pb2.MethodOptions.IDEMPOTENT: "idempotent",
}
_KEY_SOURCES: Mapping[int, KeySource] = {
    options_pb2.idempotency_key_unspecified: "none",
    options_pb2.required_header: "required_header",
    options_pb2.optional_header: "optional_header",
    options_pb2.request_field: "request_field",
}


class ContractError(Exception):
    """A contract lacks what the mesh needs, such as the access of an RPC."""


@dataclass(frozen=True, slots=True)
class Access:
    """Who may call an RPC: the kind of rule, and its permission, callers, or the field that names the owner."""

    kind: AccessKind
    permission: str = ""
    granted_to: frozenset[str] = frozenset()
    callers: frozenset[str] = frozenset()
    owner_field: str = ""

    @classmethod
    def parse(cls, option: options_pb2.Access) -> "Access | None":
        """The rule that is set; None when no rule is set, or when the rule is empty."""
        match option.WhichOneof("rule"):
            case "public" if option.public:
                return cls("public")
            case "authenticated" if option.authenticated:
                return cls("authenticated")
            case "permission" if option.permission.name:
                return cls("permission", option.permission.name, frozenset(option.permission.granted_to))
            case "internal" if option.internal.callers:
                return cls("internal", callers=frozenset(option.internal.callers))
            case "self" if option.self.field and option.self.permission.name:
                other = option.self.permission
                return cls("self", other.name, frozenset(other.granted_to), owner_field=option.self.field)
        return None

    def admits_workload(self, workload: str) -> bool:
        """Whether a workload with a certificate of the mesh may call this internal RPC."""
        return bool(workload) and (workload in self.callers or ANY_WORKLOAD in self.callers)


@dataclass(frozen=True, slots=True)
class HttpBinding:
    """One REST binding. `body` is the field that the HTTP body fills: "*" for the whole request, "" for none."""

    verb: str
    path: str
    body: str
    response_body: str


@dataclass(frozen=True, slots=True)
class MethodContract:
    """Everything that the contract says about one RPC. Times are in seconds, sizes in bytes."""

    full_name: str
    path: str
    service: str
    name: str
    deployable: str
    access: Access | None
    timeout: float
    max_request_bytes: int
    rate_limit: options_pb2.RateLimit | None
    cache_seconds: int | None
    success_status: int
    audit: bool
    untraced: bool
    errors: frozenset[str]
    idempotency_key: KeySource
    idempotency_level: IdempotencyLevel
    http: tuple[HttpBinding, ...]
    request_class: type[Message]
    response_class: type[Message]
    client_streaming: bool
    server_streaming: bool
    descriptor: MethodDescriptor
    # Whether the contract is a third party's, without our options.
    foreign: bool

    @property
    def cache(self) -> int | None:
        """Seconds that a public response may be cached; None when it may not be."""
        return self.cache_seconds

    @property
    def retryable(self) -> bool:
        """Whether a client may repeat the call when the server was unavailable.

        An idempotent RPC without a key is idempotent by its nature; an optional key may have been left out.
        """
        if self.idempotency_level == "idempotent":
            return self.idempotency_key != "optional_header"
        return self.idempotency_level == "no_side_effects"


def parse_method(method: MethodDescriptor, access: options_pb2.Access | None = None) -> MethodContract:
    """The contract of one RPC. `access` replaces the option, and is only for contracts that are not ours."""
    options = method.GetOptions()
    extension: Any = options.Extensions
    service = method.containing_service
    timeout = extension[options_pb2.timeout].ToTimedelta().total_seconds()
    return MethodContract(
        full_name=method.full_name,
        path=f"/{service.full_name}/{method.name}",
        service=service.full_name,
        name=method.name,
        deployable=service.GetOptions().Extensions[options_pb2.service].deployable,
        access=Access.parse(access if access is not None else extension[options_pb2.access]),
        timeout=timeout or DEFAULT_TIMEOUT,
        max_request_bytes=extension[options_pb2.max_request_bytes] or DEFAULT_MAX_REQUEST_BYTES,
        rate_limit=_if_set(options, options_pb2.rate_limit),
        cache_seconds=cache.max_age_seconds if (cache := _if_set(options, options_pb2.cache)) else None,
        success_status=extension[options_pb2.success_status] or 200,
        audit=extension[options_pb2.audit],
        untraced=extension[options_pb2.untraced],
        errors=frozenset(extension[options_pb2.errors].reasons),
        idempotency_key=_KEY_SOURCES[extension[options_pb2.idempotency_key]],
        idempotency_level=_LEVELS[options.idempotency_level],
        http=tuple(_http_bindings(extension[annotations_pb2.http])),
        request_class=message_factory.GetMessageClass(method.input_type),
        response_class=message_factory.GetMessageClass(method.output_type),
        client_streaming=method.client_streaming,
        server_streaming=method.server_streaming,
        descriptor=method,
        foreign=not options.HasExtension(options_pb2.access),
    )


def _if_set(options: descriptor_pb2.MethodOptions, extension: Any) -> Any:
    return options.Extensions[extension] if options.HasExtension(extension) else None


def _http_bindings(rule: http_pb2.HttpRule) -> Iterator[HttpBinding]:
    pattern = rule.WhichOneof("pattern")
    if pattern is None:
        return
    verb, path = (pattern.upper(), getattr(rule, pattern))
    if pattern == "custom":
        verb, path = rule.custom.kind, rule.custom.path
    yield HttpBinding(verb, path, rule.body, rule.response_body)
    for additional in rule.additional_bindings:
        yield from _http_bindings(additional)
