"""The bounds of a field: turns its validation rules into keywords of JSON Schema."""

import math
import re
from typing import Any

from buf.validate import validate_pb2
from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor

Schema = dict[str, Any]

_KEYWORDS = {
    "min_len": "minLength",
    "max_len": "maxLength",
    "min_bytes": "minLength",
    "pattern": "pattern",
    "gt": "exclusiveMinimum",
    "gte": "minimum",
    "lt": "exclusiveMaximum",
    "lte": "maximum",
    "const": "const",
    "min_items": "minItems",
    "max_items": "maxItems",
    "unique": "uniqueItems",
    "min_pairs": "minProperties",
    "max_pairs": "maxProperties",
}
_FORMATS = {
    "uuid": "uuid",
    "email": "email",
    "uri": "uri",
    "hostname": "hostname",
    "ipv4": "ipv4",
    "ipv6": "ipv6",
}

# The keyword for each bound that the expression of a house rule can contain.
_IN_EXPRESSIONS = {
    "pattern": r"this\.matches\(r'(.*?)'\)",
    "minLength": r"this\.size\(\) >= (\d+)",
    "maxLength": r"this\.size\(\) <= (\d+)",
    "minimum": r"this >= (\d+)",
    "maximum": r"this <= (\d+)",
}


def rules_of(field: FieldDescriptor) -> validate_pb2.FieldRules:
    """Returns the rules of a field; empty when it has none."""
    rules: validate_pb2.FieldRules = field.GetOptions().Extensions[validate_pb2.field]
    return rules


def bounds(rules: validate_pb2.FieldRules) -> Schema:
    """Returns the keywords for a value; call it separately for a list's items and a map's values.

    Rules that JSON Schema cannot say (CEL, times) are left to the field's comment.
    """
    kind = rules.WhichOneof("type")
    if kind in (None, "enum", "any", "bytes", "duration", "timestamp", "field_mask"):
        return {}
    schema: Schema = {}
    for rule, value in getattr(rules, kind).ListFields():
        if rule.is_extension:
            schema |= _of_house_rule(rule, value)
        elif rule.name in _KEYWORDS:
            schema[_KEYWORDS[rule.name]] = _portable(value)
        elif rule.name in _FORMATS and value:
            schema["format"] = _FORMATS[rule.name]
        elif rule.name == "len":
            schema |= {"minLength": value, "maxLength": value}
        elif rule.name == "prefix":
            schema.setdefault("pattern", f"^{value}")
        elif rule.name == "in":
            schema["enum"] = list(value)
        elif rule.name == "not_in":
            schema["not"] = {"enum": list(value)}
    return schema


def _of_house_rule(rule: FieldDescriptor, value: Any) -> Schema:
    """Returns the keywords of a house rule, such as those of protomesh/options/v1/rules.proto, from its expression."""
    expression = rule.GetOptions().Extensions[validate_pb2.predefined].cel[0].expression
    found = ((keyword, re.search(form, expression)) for keyword, form in _IN_EXPRESSIONS.items())
    schema: Schema = {keyword: match[1] if keyword == "pattern" else int(match[1]) for keyword, match in found if match}
    if "uint(this.size()) <= rule" in expression:
        schema["maxLength"] = value
    if not schema:
        raise ValueError(f"The expression of {rule.full_name} has no bound that JSON Schema can state: use matches, size, >= or <=.")
    if "pattern" in schema:
        schema["pattern"] = _portable(schema["pattern"])
    return schema | ({"format": "uuid"} if rule.name == "id" else {})


def allowed_names(enum_type: EnumDescriptor, rules: validate_pb2.FieldRules) -> list[str]:
    """Returns the names of the enum values that a field with these rules accepts, except the one that stands for none."""
    enum = rules.enum
    named = (value for value in enum_type.values if not value.name.lower().endswith("_unspecified"))
    values = (value for value in named if value.number not in enum.not_in)
    return [value.name for value in values if not getattr(enum, "in") or value.number in getattr(enum, "in")]


def _portable(value: Any) -> Any:
    if isinstance(value, str):
        # JSON Schema uses JavaScript's regular expressions, which write a four-digit character differently.
        return re.sub(r"\\x\{([0-9A-F]{4})\}", r"\\u\1", value)
    return int(value) if isinstance(value, float) and math.isfinite(value) and value.is_integer() else value
