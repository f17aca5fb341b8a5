"""What contracts say of their fields: who sets them, which may be left out, and what they look like."""

from collections.abc import Iterator
from typing import Any

import protovalidate
import pytest
from google.api import field_behavior_pb2
from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from chassis import contract
from meshctl.build.gen.behaviors import behaviors, example

REQUIRED, OPTIONAL = field_behavior_pb2.REQUIRED, field_behavior_pb2.OPTIONAL
OUTPUT_ONLY, IDENTIFIER = field_behavior_pb2.OUTPUT_ONLY, field_behavior_pb2.IDENTIFIER
OURS = [method for method in contract.platform() if not method.foreign]


def parts(*messages: Descriptor) -> dict[str, Descriptor]:
    """Our messages among what can stand inside these."""
    found = (part for message in messages for part in contract.reachable(message))
    return {part.full_name: part for part in found if part.full_name.startswith("protomesh.")}


INPUTS = parts(*(method.descriptor.input_type for method in OURS))
OUTPUTS = parts(*(method.descriptor.output_type for method in OURS))
RESOURCES = [message for message in OUTPUTS.values() if "etag" in message.fields_by_name]
REQUESTS = [message for name, message in INPUTS.items() if name not in OUTPUTS]

each_input = pytest.mark.parametrize("message", INPUTS.values(), ids=lambda message: message.full_name)
each_resource = pytest.mark.parametrize("message", RESOURCES, ids=lambda message: message.full_name)


def refused(message: Any) -> set[str]:
    """The fields of a message that break a rule."""
    paths = (violation.proto.field for violation in protovalidate.collect_violations(message))
    return {path.elements[0].field_name for path in paths if path and path.elements}


def examples(message: Descriptor) -> Iterator[tuple[FieldDescriptor, str]]:
    return ((field, example(field)) for field in message.fields if example(field))


@pytest.mark.parametrize("message", REQUESTS, ids=lambda message: message.full_name)
def test_every_field_of_a_request_is_either_required_or_optional(message: Descriptor) -> None:
    unsaid = [field.name for field in message.fields if len(behaviors(field) & {REQUIRED, OPTIONAL}) != 1]
    assert unsaid == []


@each_input
def test_what_is_required_is_what_the_rules_refuse_to_miss(message: Descriptor) -> None:
    missed = refused(message_factory.GetMessageClass(message)())
    assert {field.name for field in message.fields if REQUIRED in behaviors(field)} == missed


@each_resource
def test_every_field_of_a_resource_says_who_sets_it(message: Descriptor) -> None:
    said = {field.name: behaviors(field) for field in message.fields}
    assert [name for name, found in said.items() if not found] == []
    assert said["id"] == {IDENTIFIER}
    by_the_server = {"etag", "created_at", "updated_at"} & set(said)
    assert all(said[name] == {OUTPUT_ONLY} for name in by_the_server)


@pytest.mark.parametrize(
    "message", (INPUTS | {m.full_name: m for m in RESOURCES}).values(), ids=lambda message: message.full_name
)
def test_an_example_keeps_the_rules_of_its_field(message: Descriptor) -> None:
    for field, text in examples(message):
        filled = message_factory.GetMessageClass(message)()
        value = parsed(field, text)
        if field.is_repeated:
            getattr(filled, field.name).append(value)
        else:
            setattr(filled, field.name, value)
        assert field.name not in refused(filled), text


def parsed(field: FieldDescriptor, text: str) -> Any:
    if field.enum_type is not None:
        return field.enum_type.values_by_name[text].number
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        return text
    return text == "true" if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL else int(text)


@pytest.mark.parametrize("message", REQUESTS, ids=lambda message: message.full_name)
def test_what_must_be_sent_has_an_example(message: Descriptor) -> None:
    required = (field for field in message.fields if REQUIRED in behaviors(field))
    assert [field.name for field in required if field.message_type is None and not example(field)] == []
