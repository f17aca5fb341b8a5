"""Messages as JSON Schema, in the JSON that the edge speaks: proto names, 64-bit numbers as strings, zeros shown."""

from collections.abc import Collection, Iterable

from buf.validate import validate_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from chassis.contract import reachable
from meshctl.build.gen.behaviors import examples, is_required, keywords
from meshctl.build.gen.bounds import Schema, allowed_names, bounds, rules_of
from meshctl.build.gen.comments import Comments

_WELL_KNOWN: dict[str, Schema] = {
    "google.protobuf.Timestamp": {"type": "string", "format": "date-time"},
    "google.protobuf.Duration": {"type": "string", "pattern": r"^-?\d+(\.\d{1,9})?s$"},
    "google.protobuf.FieldMask": {"type": "string"},
    "google.protobuf.Struct": {"type": "object"},
    "google.protobuf.Value": {},
    "google.protobuf.Any": {
        "type": "object",
        "required": ["@type"],
        "properties": {"@type": {"type": "string"}},
    },
    "google.protobuf.Empty": {"type": "object"},
    "google.api.HttpBody": {"type": "string", "format": "binary"},
}
_LARGE = {FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_UINT64}
_SCALARS: dict[int, Schema] = {
    FieldDescriptor.CPPTYPE_INT32: {"type": "integer", "format": "int32"},
    FieldDescriptor.CPPTYPE_UINT32: {"type": "integer", "minimum": 0},
    FieldDescriptor.CPPTYPE_INT64: {"type": "string", "format": "int64"},
    FieldDescriptor.CPPTYPE_UINT64: {"type": "string", "format": "uint64"},
    FieldDescriptor.CPPTYPE_DOUBLE: {"type": "number", "format": "double"},
    FieldDescriptor.CPPTYPE_FLOAT: {"type": "number", "format": "float"},
    FieldDescriptor.CPPTYPE_BOOL: {"type": "boolean"},
    FieldDescriptor.CPPTYPE_STRING: {"type": "string"},
}


class Schemas:
    """The schemas of one document. `components` gains each message that is referred to."""

    def __init__(self, comments: Comments, requests: Iterable[Descriptor]) -> None:
        self.components: dict[str, Schema] = {}
        self._comments = comments
        self._inputs = {part.full_name for request in requests for part in reachable(request)}

    def reference(self, message: Descriptor) -> Schema:
        """Returns a `$ref` to the component of a message, or the schema itself where JSON has a special form for it."""
        if message.full_name in _WELL_KNOWN:
            return dict(_WELL_KNOWN[message.full_name])
        name = message.full_name.removeprefix("protomesh.")
        if name not in self.components:
            self.components[name] = {}  # A placeholder, since a message may contain itself.
            self.components[name] = self.inline(message)
        return {"$ref": f"#/components/schemas/{name}"}

    def inline(self, message: Descriptor, without: Collection[str] = ()) -> Schema:
        """Returns the schema of a message, without some of its fields."""
        schema: Schema = {"type": "object"}
        if comment := self._comments.of(message.full_name):
            schema["description"] = comment
        fields = [field for field in message.fields if field.name not in without]
        required = self.required(message)
        if names := [field.name for field in fields if field.name in required]:
            schema["required"] = names
        schema["properties"] = {field.name: self.field(field) for field in fields}
        if message.full_name in self._inputs:
            schema["additionalProperties"] = False  # The edge refuses unknown fields.
        return schema

    def required(self, message: Descriptor) -> set[str]:
        """Returns the required fields: in a request those without which it is not valid, in a response those always shown."""
        if message.full_name in self._inputs:
            return {field.name for field in message.fields if is_required(field)}
        return {field.name for field in message.fields if field.is_repeated or not field.has_presence}

    def field(self, field: FieldDescriptor) -> Schema:
        """Returns the schema of a field, with its bounds and its comment."""
        described = keywords(field) | (
            {"description": text} if (text := self._comments.of(field.full_name)) else {}
        )
        rules = rules_of(field)
        if entry := _map_entry(field):
            values = self._value(entry.fields_by_name["value"], rules.map.values)
            return {"type": "object", "additionalProperties": values, **bounds(rules), **described}
        if field.is_repeated:
            return {
                "type": "array",
                "items": self._value(field, rules.repeated.items),
                **bounds(rules),
                **described,
            }
        return {**self._value(field, rules), **described}

    def _value(self, field: FieldDescriptor, rules: validate_pb2.FieldRules) -> Schema:
        if field.message_type is not None:
            return self.reference(field.message_type)
        if field.enum_type is not None:
            return {"type": "string", "enum": allowed_names(field.enum_type, rules), **examples(field)}
        if field.type == FieldDescriptor.TYPE_BYTES:
            return {"type": "string", "contentEncoding": "base64"}
        schema = _SCALARS[field.cpp_type] | bounds(rules)
        if field.cpp_type in _LARGE and len(schema) > len(_SCALARS[field.cpp_type]):
            # A number is accepted as well as a string, and JSON Schema can state bounds only for a number.
            schema["type"] = ["string", "integer"]
        return schema | examples(field)


def _map_entry(field: FieldDescriptor) -> Descriptor | None:
    message = field.message_type
    return message if message is not None and message.GetOptions().map_entry else None
