"""What a contract allows, its server takes: the largest request that keeps the rules is within the request's limit."""

import pytest
from buf.validate import validate_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from protomesh.options.v1 import rules_pb2

from chassis import contract
from chassis.contract import MethodContract
from meshctl.build.gen.bounds import bounds

# A code point has four bytes of UTF-8 at most, and a number ten as a varint.
BYTES_OF_A_CHARACTER, BYTES_OF_A_NUMBER, BYTES_OF_A_UUID = 4, 10, 36
# The tag and the length of a field.
FRAME = 8
UNBOUNDED = 2**62
# Bounded by a pattern, which is not taken apart here: three letters and a number.
BYTES_OF_MESSAGES = {"protomesh.type.v1.Money": 3 + BYTES_OF_A_NUMBER + 2 * FRAME}

METHODS = [method for method in contract.platform() if not method.client_streaming]


def _largest(message: Descriptor, above: frozenset[str] = frozenset()) -> int:
    """Bytes of the largest message that keeps its rules."""
    if message.full_name in BYTES_OF_MESSAGES:
        return BYTES_OF_MESSAGES[message.full_name]
    if message.full_name in above:
        return UNBOUNDED
    return sum(_largest_field(field, above | {message.full_name}) for field in message.fields)


def _largest_field(field: FieldDescriptor, above: frozenset[str]) -> int:
    rules = field.GetOptions().Extensions[validate_pb2.field]
    if not field.is_repeated:
        return _largest_value(field, rules, above) + FRAME
    if not rules.repeated.HasField("max_items"):
        return UNBOUNDED
    return rules.repeated.max_items * (_largest_value(field, rules.repeated.items, above) + FRAME)


def _largest_value(field: FieldDescriptor, rules: validate_pb2.FieldRules, above: frozenset[str]) -> int:
    if field.message_type is not None:
        return _largest(field.message_type, above)
    if field.type not in (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES):
        return BYTES_OF_A_NUMBER
    if rules.string.Extensions[rules_pb2.id] or rules.string.Extensions[rules_pb2.optional_id]:
        return BYTES_OF_A_UUID
    if field.type == FieldDescriptor.TYPE_BYTES:
        return rules.bytes.max_len if rules.bytes.HasField("max_len") else UNBOUNDED
    if (most := bounds(rules).get("maxLength")) is not None:
        return int(most) * BYTES_OF_A_CHARACTER
    return rules.string.max_bytes if rules.string.HasField("max_bytes") else UNBOUNDED


def test_the_limit_of_an_import_is_what_its_rows_may_come_to_and_hardly_more() -> None:
    [method] = [method for method in METHODS if method.name == "BatchImportProducts"]
    assert 0.9 < _largest(method.descriptor.input_type) / method.max_request_bytes <= 1


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.path)
def test_a_request_that_the_contract_allows_is_not_too_large(method: MethodContract) -> None:
    largest = _largest(method.descriptor.input_type)
    # Where a field has no bound, the limit on the request is its bound.
    assert largest >= UNBOUNDED or largest <= method.max_request_bytes
