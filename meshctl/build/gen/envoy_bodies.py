"""The fields of every message that a JSON body can hold, as the Lua table that envoy/json_body.lua reads."""

from collections.abc import Iterable, Iterator
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from chassis.contract import HttpBinding, MethodContract, reachable

# JSON has special forms for these, which the transcoder checks.
_OPAQUE = ("google.protobuf.", "google.api.")


def message_of(method: MethodContract, binding: HttpBinding) -> Descriptor | None:
    """Returns the message in the JSON body of a binding; None when there is no body or it is not checked."""
    if not binding.body or method.client_streaming:
        return None
    request = method.descriptor.input_type
    message = request if binding.body == "*" else request.fields_by_name[binding.body].message_type
    return None if message is None or message.full_name.startswith(_OPAQUE) else message


def table(methods: Iterable[MethodContract]) -> str:
    """Returns `local MESSAGES = {…}`: by message, then by both JSON names of a field, the type of the field."""
    roots = (message_of(method, binding) for method in methods for binding in method.http)
    found = (part for root in roots if root is not None for part in reachable(root))
    messages = {part.full_name: part for part in found if not part.full_name.startswith(_OPAQUE)}
    lines = (f'["{name}"] = {{{", ".join(_fields(message))}}},' for name, message in sorted(messages.items()))
    return "\n  ".join(("local MESSAGES = {", *lines)) + "\n}\n"


def _held(field: FieldDescriptor) -> Descriptor | None:
    held: Any = field.message_type
    return None if held is None or held.full_name.startswith(_OPAQUE) else held


def _fields(message: Descriptor) -> Iterator[str]:
    if message.GetOptions().map_entry:
        yield f'["*"] = {_value(message.fields_by_name["value"])}'
        return
    for field in message.fields:
        for name in sorted({field.name, field.json_name}):
            yield f"{name} = {_value(field)}"


def _value(field: FieldDescriptor) -> str:
    held = _held(field)
    return "true" if held is None else f'"{held.full_name}"'
