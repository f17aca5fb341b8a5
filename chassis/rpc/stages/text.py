"""The check for NUL characters, which PostgreSQL cannot store and which no contract should have to forbid."""

from collections.abc import Callable, Iterator
from typing import Any

from buf.validate import validate_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from chassis.contract.descriptors import reachable

NUL = "\0"
_NUL_BYTE = NUL.encode()


def nul_finder(message: Descriptor) -> Callable[[Message], list[str]] | None:
    """Returns a function that finds the paths of a message's strings that hold a NUL; None when it has no strings.

    A lone surrogate needs no check: it is not UTF-8, so the message cannot be decoded.
    """
    fields = (field for part in reachable(message) for field in part.fields)
    return _find if any(field.type == FieldDescriptor.TYPE_STRING for field in fields) else None


def _find(message: Message) -> list[str]:
    # Numbers may have zero bytes too, but most messages have none at all, which takes half a microsecond to check.
    return list(_in_message(message, "")) if _NUL_BYTE in message.SerializeToString() else []


def _in_message(message: Message, prefix: str) -> Iterator[str]:
    for field, value in message.ListFields():
        if not _left_to_the_handler(field):
            yield from _in_value(value, prefix + field.name)


def _left_to_the_handler(field: FieldDescriptor) -> bool:
    """Whether the contract excludes a field's content from validation, such as rows that are refused one by one."""
    rules: validate_pb2.FieldRules = field.GetOptions().Extensions[validate_pb2.field]
    return validate_pb2.IGNORE_ALWAYS in (rules.ignore, rules.repeated.items.ignore, rules.map.values.ignore)


def _in_value(value: Any, path: str) -> Iterator[str]:
    if isinstance(value, str):
        if NUL in value:
            yield path
    elif isinstance(value, Message):
        yield from _in_message(value, f"{path}.")
    elif hasattr(value, "items"):
        for key, item in value.items():
            # A key can hold a NUL as well, and is then not printable.
            yield from _in_value(key, path)
            yield from _in_value(item, f"{path}[{key!r}]")
    elif hasattr(value, "append") or hasattr(value, "add"):
        for at, item in enumerate(value):
            yield from _in_value(item, f"{path}[{at}]")
