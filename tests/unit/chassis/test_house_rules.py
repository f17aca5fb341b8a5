"""The house rules of validation, each on a field of its own."""

import sys
from typing import Any

import protovalidate
import pytest
from google.protobuf import message_factory
from jsonschema import Draft202012Validator, FormatChecker
from protomesh.options.v1 import rules_pb2

from meshctl.build.gen.bounds import bounds, rules_of
from tests import protos

RULES = "(buf.validate.field).{kind}.(protomesh.options.v1.{rule}) = {value}"
FIELDS = [
    ("string", "line", "5"),
    ("string", "name", "5"),
    ("string", "text", "5"),
    ("string", "slug", "5"),
    ("string", "id", "true"),
    ("string", "optional_id", "true"),
    ("string", "cursor", "true"),
    ("string", "currency", "true"),
    ("string", "optional_currency", "true"),
    ("int32", "page", "true"),
    ("int32", "limit", "true"),
    ("int64", "money", "true"),
]
TEXT = "\n".join(
    [
        'syntax = "proto3";',
        "package rules.v1;",
        'import "buf/validate/validate.proto";',
        'import "protomesh/options/v1/rules.proto";',
        *(
            f"message With{rule} {{ {kind} value = 1 [{RULES.format(kind=kind, rule=rule, value=value)}]; }}"
            for kind, rule, value in FIELDS
        ),
    ]
)
MESSAGES = protos.compiled("rules.proto", TEXT)[0].message_types_by_name
ID = "0198f2a0-0000-7000-8000-000000000001"
# Whatever Python's `strip` takes away.
BLANKS = [character for character in map(chr, range(sys.maxunicode + 1)) if character.isspace()]

TAKEN: dict[str, list[Any]] = {
    "line": ["", "a", "ab cd", "\u00a0", "ÄÖÜßé", "日本語テキ"],
    "name": ["a", " a ", "\u00a0a", "ÄÖÜßé", "\u200b"],
    "text": ["", "a\nb\tc", "\r\n"],
    "slug": ["a", "a-1", "a-b-c"],
    "id": [ID, ID.upper(), "0198F2a0-0000-7000-8000-00000000000A"],
    "optional_id": ["", ID],
    "cursor": ["", "x" * 2048],
    "currency": ["GBP"],
    "optional_currency": ["", "EUR"],
    "page": [0, 1, 100_000],
    "limit": [0, 1, 2**31 - 1],
    "money": [0, 2**63 - 1],
}
REFUSED: dict[str, list[Any]] = {
    "line": ["abcdef", "a\nb", "a\tb", "\x7f", "\x00", "\x85", "\u2028", "\x9f"],
    "name": ["", "abcdef", "a\nb", *BLANKS, *(blank * 5 for blank in BLANKS), " \u00a0\u3000"],
    "text": ["abcdef", "\x00", "a\x0bb", "\x1b[0m", "\x7f"],
    "slug": ["", "A", "a--b", "-a", "a-", "abcdef", "ä", "a b", "a\n"],
    "id": ["", "x", ID + "\n", ID[:-1], f"{{{ID}}}", ID.replace("-", "")],
    "optional_id": ["x", ID + " ", " "],
    "cursor": ["x" * 2049],
    "currency": ["", "gbp", "GBPX", "GB", "GBP "],
    "optional_currency": ["gbp", " "],
    "page": [-1, 100_001],
    "limit": [-1],
    "money": [-1],
}


def message(rule: str, value: Any) -> Any:
    return message_factory.GetMessageClass(MESSAGES[f"With{rule}"])(value=value)


@pytest.mark.parametrize(
    ("rule", "value"), [(rule, each) for rule, values in TAKEN.items() for each in values]
)
def test_a_rule_takes_what_it_is_there_for(rule: str, value: Any) -> None:
    assert protovalidate.collect_violations(message(rule, value)) == []


@pytest.mark.parametrize(
    ("rule", "value"), [(rule, each) for rule, values in REFUSED.items() for each in values]
)
def test_a_rule_refuses_what_breaks_it(rule: str, value: Any) -> None:
    (violation,) = protovalidate.collect_violations(message(rule, value))
    assert violation.proto.rule_id.endswith(f".{rule}")
    assert violation.proto.message


@pytest.mark.parametrize("rule", TAKEN)
def test_the_openapi_document_says_the_same(rule: str) -> None:
    field = MESSAGES[f"With{rule}"].fields_by_name["value"]
    schema = Draft202012Validator(bounds(rules_of(field)), format_checker=FormatChecker())
    assert [value for value in TAKEN[rule] if not schema.is_valid(value)] == []
    # To Python a `$` also stands before a last line break; to JavaScript, whose expressions these are, it does not.
    refused = [value for value in REFUSED[rule] if not str(value).endswith("\n")]
    assert [value for value in refused if schema.is_valid(value)] == []


def test_every_house_rule_is_tried() -> None:
    assert {rule for _, rule, _ in FIELDS} == set(rules_pb2.DESCRIPTOR.extensions_by_name)
