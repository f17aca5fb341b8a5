"""The reference pages of the contracts, as Markdown: RPCs, permissions, events, error reasons."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import attrgetter

from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import Descriptor, FileDescriptor
from protomesh.options.v1 import options_pb2

from chassis.contract import ADMIN, MethodContract
from meshctl.build.gen.comments import Comments

_RULES = (
    "Rules of validation that many fields share, beside those of `buf.validate`: "
    "`[(buf.validate.field).string.(protomesh.options.v1.line) = 200]`."
)
_NOTE = "<!-- Generated from proto/ by scripts/gen; not edited by hand. -->"


def rpcs(methods: Sequence[MethodContract], comments: Comments) -> str:
    """Returns the page of RPCs, by service: purpose, access, REST binding, limits, errors."""
    lines = [_NOTE, "# RPCs", ""]
    for service, group in groupby(methods, key=attrgetter("service")):
        own = list(group)
        lines += [f"## {service}", "", comments.of(service), "", f"Deployable: `{own[0].deployable}`.", ""]
        for method in own:
            lines += [f"### {method.name}", "", comments.description(method.full_name), ""]
            lines += [f"- {fact}" for fact in _facts(method, comments)] + [""]
    return "\n".join(lines)


def _facts(method: MethodContract, comments: Comments) -> Iterator[str]:
    answer = "stream " * method.server_streaming + f"`{method.descriptor.output_type.name}`"
    question = "stream " * method.client_streaming + f"`{method.descriptor.input_type.name}`"
    yield f"{question} → {answer}"
    for binding in method.http:
        yield f"REST: `{binding.verb} {binding.path}`, success {method.success_status}"
    yield f"Access: {_access(method)}"
    yield f"Timeout: {method.timeout:g} s; request at most {method.max_request_bytes:,} bytes"
    yield f"Repeating it: {_repeating(method)}"
    if method.rate_limit is not None:
        yield f"Limits: {', '.join(_quotas(method.rate_limit))}"
    if method.cache is not None:
        yield f"May be cached for {method.cache} s"
    if method.audit:
        yield "Leaves an audit record"
    if errors := comments.errors(method.full_name):
        yield f"Errors: {errors}"


def _access(method: MethodContract) -> str:
    access = method.access
    match access.kind if access else "":
        case "public":
            return "everybody"
        case "authenticated":
            return "every signed-in user"
        case "permission":
            return f"permission `{access.permission}`" if access else ""
        case "self":
            return f"the user in `{access.owner_field}`, or permission `{access.permission}`" if access else ""
        case "internal":
            return f"internal, for {_codes(access.callers)}" if access else ""
    return "nobody: the contract has no access rule"


def _repeating(method: MethodContract) -> str:
    match method.idempotency_key:
        case "required_header":
            return "harmless with the same `idempotency-key` header, which is required"
        case "optional_header":
            return "harmless with the same `idempotency-key` header"
        case "request_field":
            return "harmless: the request names its resource"
    if method.idempotency_level == "no_side_effects":
        return "harmless: it changes nothing"
    return "harmless" if method.idempotency_level == "idempotent" else "is a second call"


def _quotas(limit: options_pb2.RateLimit) -> Iterator[str]:
    for name, quota in (("address", limit.per_address), ("caller", limit.per_caller)):
        if quota.requests:
            yield f"{quota.requests:,} a {options_pb2.Quota.Unit.Name(quota.per)} for one {name}"


def permissions(methods: Sequence[MethodContract]) -> str:
    """Returns the page of permissions: RPC, permission, roles."""
    lines = [
        _NOTE,
        "# Permissions",
        "",
        f"What the built-in roles may do. `{ADMIN}` is granted every permission.",
        "",
        "| RPC | may be called by | roles |",
        "| --- | --- | --- |",
    ]
    for method in methods:
        roles = (
            _codes({*method.access.granted_to, ADMIN}) if method.access and method.access.permission else ""
        )
        lines.append(
            f"| `{method.service.removeprefix('protomesh.')}.{method.name}` | {_access(method)} | {roles} |"
        )
    return "\n".join([*lines, ""])


def permission_constants(methods: Sequence[MethodContract]) -> str:
    """Returns a Python module with a constant for each permission, so that a misspelled one fails at import."""
    names = sorted({method.access.permission for method in methods if method.access and method.access.permission})
    lines = ['"""The permissions of the platform. Generated from proto/ by scripts/gen; not edited by hand."""', ""]
    lines += ["from typing import Final", ""]
    return "\n".join([*lines, *(f'{_constant(name)}: Final = "{name}"' for name in names), ""])


def _constant(permission: str) -> str:
    return permission.replace(".", "_").upper()


def events(files: Sequence[FileDescriptor], comments: Comments) -> str:
    """Returns the page of events, by stream."""
    streams = defaultdict(list)
    for message in (message for file in files for message in file.message_types_by_name.values()):
        event = message.GetOptions().Extensions[options_pb2.event]
        if event.subject:
            streams[event.stream].append((event, message))
    lines = [_NOTE, "# Events", "", "Delivered at least once; events of one aggregate in their order.", ""]
    for stream, published in sorted(streams.items()):
        lines += [f"## Stream {stream}", ""]
        for event, message in sorted(published, key=lambda pair: pair[0].subject):
            lines += [f"### {message.name}", "", comments.of(message.full_name), ""]
            lines += [
                f"Subject `{event.subject}.<{event.aggregate_id_field}>`, message `{message.full_name}`."
                + _subscribers(event.subscribers),
                "",
            ]
            lines += ["| field | type | meaning |", "| --- | --- | --- |"]
            for field in message.fields:
                kind = field.message_type.full_name if field.message_type else _scalar(field.type)
                repeated = "repeated " * field.is_repeated
                lines.append(
                    f"| `{field.name}` | {repeated}`{kind}` | {_cell(comments.of(field.full_name))} |"
                )
            lines.append("")
    return "\n".join(lines)


def _subscribers(names: Sequence[str]) -> str:
    if not names:
        return ""
    return " Received by every service." if "*" in names else f" Received by {', '.join(f'`{n}`' for n in names)}."


def reasons(files: Sequence[FileDescriptor], comments: Comments) -> str:
    """Returns the page of every `ErrorInfo.reason`, by domain."""
    lines = [
        _NOTE,
        "# Error reasons",
        "",
        "What `google.rpc.ErrorInfo.reason` can hold; the domain is `protomesh`.",
        "",
    ]
    for file in files:
        enum = file.enum_types_by_name.get("ErrorReason")
        if enum is None:
            continue
        lines += [f"## {file.package}", "", "| reason | meaning |", "| --- | --- |"]
        lines += [
            f"| `{value.name}` | {_cell(comments.of(f'{enum.full_name}.{value.name}'))} |"
            for value in enum.values
            if value.number
        ]
        lines.append("")
    return "\n".join(lines)


def options(files: Sequence[FileDescriptor], comments: Comments) -> str:
    """Returns the page of the house options: the meaning of each, and where it applies."""
    lines = [_NOTE, "# Options", "", "What a contract can say, in `protomesh.options.v1`.", ""]
    for extension in options_pb2.DESCRIPTOR.extensions_by_name.values():
        holder = extension.containing_type
        on = holder.name.removesuffix("Options").lower() if holder else "file"
        lines += [f"## {extension.name}", "", f"On a {on}. {comments.of(extension.full_name)}", ""]
        if extension.message_type is not None and extension.message_type.file is options_pb2.DESCRIPTOR:
            lines += [*_field_lines(extension.message_type, comments), ""]
        if extension.enum_type is not None:
            values = (
                (value.name, f"{extension.enum_type.full_name}.{value.name}")
                for value in extension.enum_type.values
            )
            lines += [*(f"- `{name}`: {comments.of(full_name)}" for name, full_name in values), ""]
    lines += ["## Rules", "", _RULES, "", "| rule | of a | meaning |", "| --- | --- | --- |"]
    ours = (file for file in files if file.name.endswith("/rules.proto"))
    for rule in (rule for file in ours for rule in file.extensions_by_name.values()):
        kind = rule.containing_type.name.removesuffix("Rules").lower() if rule.containing_type else ""
        lines.append(f"| `{rule.full_name}` | {kind} | {_cell(comments.of(rule.full_name))} |")
    return "\n".join([*lines, ""])


def _field_lines(message: Descriptor, comments: Comments, depth: int = 0) -> Iterator[str]:
    for field in message.fields:
        yield f"{'  ' * depth}- `{field.name}`: {comments.of(field.full_name)}"
        if field.message_type is not None:
            yield from _field_lines(field.message_type, comments, depth + 1)
        elif field.enum_type is not None:
            names = ", ".join(f"`{value.name}`" for value in field.enum_type.values if value.number)
            yield f"{'  ' * (depth + 1)}- one of {names}"


def _scalar(number: int) -> str:
    names = descriptor_pb2.FieldDescriptorProto.Type.items()
    return next(name for name, value in names if value == number).removeprefix("TYPE_").lower()


def _codes(names: Sequence[str] | set[str] | frozenset[str]) -> str:
    return ", ".join(f"`{name}`" for name in sorted(names))


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
