"""Validation: a handler never sees a request that breaks its contract."""

from collections.abc import AsyncIterator, Awaitable, Sequence
from typing import Any

import protovalidate
from buf.validate import validate_pb2
from google.protobuf.descriptor import Descriptor

from chassis.contract.methods import MethodContract
from chassis.core.errors import InvalidArgument, Violation
from chassis.rpc.call import Call
from chassis.rpc.stage import Proceed, Stage
from chassis.rpc.stages.text import nul_finder

_validator = protovalidate.Validator()


def stage(contract: MethodContract, receive_limit: int) -> Stage:
    """Returns the check of a request, or of each message of a client stream."""
    look = _Look(contract, receive_limit)
    if contract.client_streaming:
        return look.at_each
    return look.at_one


class _Look:
    """The check of one message's form, size and rules. Raises InvalidArgument, which names the fields and errors."""

    def __init__(self, contract: MethodContract, receive_limit: int) -> None:
        self._limit = contract.max_request_bytes
        # A request that is too large for every RPC of the server never arrives here.
        self._measures = self._limit < receive_limit
        self._has_rules = has_rules(contract.descriptor.input_type)
        self._nuls = None if contract.foreign else nul_finder(contract.descriptor.input_type)

    def at_one(self, proceed: Proceed, request: Any, call: Call) -> Awaitable[Any]:
        self._at(request)
        return proceed(request, call)

    def at_each(self, proceed: Proceed, request: Any, call: Call) -> Awaitable[Any]:
        return proceed(self._checked(request), call)

    async def _checked(self, requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for request in requests:
            self._at(request)
            yield request

    def _at(self, request: Any) -> None:
        if request is None:
            raise InvalidArgument("REQUEST_MALFORMED", "The request is not a message of this RPC.")
        if self._measures and request.ByteSize() > self._limit:
            raise InvalidArgument("REQUEST_TOO_LARGE", f"The request is larger than {self._limit} bytes.")
        if self._nuls is not None and (found := self._nuls(request)):
            raise _broken([(path, "must not hold a NUL character") for path in found])
        if self._has_rules:
            try:
                _validator.validate(request)
            except protovalidate.ValidationError as error:
                raise _invalid(error) from None


def _invalid(error: protovalidate.ValidationError) -> InvalidArgument:
    found = validate_pb2.Violations.FromString(error.to_proto().to_binary()).violations
    violations = [(_path(violation.field), violation.message or violation.rule_id) for violation in found]
    return _broken(violations)


def _broken(violations: Sequence[Violation]) -> InvalidArgument:
    return InvalidArgument("VALIDATION_FAILED", "The request breaks its contract.", violations=violations)


def _path(path: validate_pb2.FieldPath) -> str:
    """Returns a path such as `lines[2].quantity` or `labels["a"]`."""
    return ".".join(element.field_name + _subscript(element) for element in path.elements)


def _subscript(element: validate_pb2.FieldPathElement) -> str:
    kind = element.WhichOneof("subscript")
    if kind is None:
        return ""
    value = getattr(element, kind)
    return f'["{value}"]' if kind == "string_key" else f"[{value}]"


def has_rules(message: Descriptor, _seen: frozenset[str] = frozenset()) -> bool:
    """Whether a message, or one inside it, has anything to validate."""
    if message.full_name in _seen:
        return False
    if message.GetOptions().HasExtension(validate_pb2.message):
        return True
    seen = _seen | {message.full_name}
    return any(
        field.GetOptions().HasExtension(validate_pb2.field)
        or (field.message_type is not None and has_rules(field.message_type, seen))
        for field in message.fields
    ) or any(oneof.GetOptions().HasExtension(validate_pb2.oneof) for oneof in message.oneofs)
