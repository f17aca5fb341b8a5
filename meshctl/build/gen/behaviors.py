"""What a contract says about a field besides its rules: who sets it, whether it may be left out, an example."""

from collections.abc import Iterator
from typing import Any

from google.api import field_behavior_pb2
from google.protobuf.descriptor import FieldDescriptor
from protomesh.options.v1 import options_pb2

from meshctl.build.gen.bounds import Schema, rules_of

_BY_THE_SERVER = {field_behavior_pb2.OUTPUT_ONLY, field_behavior_pb2.IDENTIFIER}
_INTEGERS = {FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_UINT32}
_FRACTIONS = {FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT}


def behaviors(field: FieldDescriptor) -> frozenset[int]:
    """Returns the values of google.api.FieldBehavior that a field has."""
    extension: Any = field_behavior_pb2.field_behavior
    return frozenset(field.GetOptions().Extensions[extension])


def is_required(field: FieldDescriptor) -> bool:
    """Whether a request without the field is refused."""
    return field_behavior_pb2.REQUIRED in behaviors(field)


def keywords(field: FieldDescriptor) -> Schema:
    """Returns the keywords of JSON Schema for the field as a whole."""
    return {"readOnly": True} if behaviors(field) & _BY_THE_SERVER else {}


def examples(field: FieldDescriptor) -> Schema:
    """Returns the keywords for a value of the field; for a list, those of an item."""
    text = example(field)
    return {"examples": [_as_json(field, text)]} if text else {}


def example(field: FieldDescriptor) -> str:
    """Returns the example of a field or else of its house rule; "" when there is none."""
    texts = (each.GetOptions().Extensions[options_pb2.example] for each in (field, *_house_rules(field)))
    return next((text for text in texts if text), "")


def _house_rules(field: FieldDescriptor) -> Iterator[FieldDescriptor]:
    rules = rules_of(field)
    of_value = rules.repeated.items if field.is_repeated else rules
    kind = of_value.WhichOneof("type")
    if kind is not None:
        yield from (rule for rule, _ in getattr(of_value, kind).ListFields() if rule.is_extension)


def _as_json(field: FieldDescriptor, text: str) -> Any:
    """Returns an example as the edge writes it: a 64-bit number is a string."""
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return text == "true"
    if field.cpp_type in _INTEGERS:
        return int(text)
    return float(text) if field.cpp_type in _FRACTIONS else text
