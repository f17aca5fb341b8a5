"""Every aggregate tells its whole life: what an RPC does to it, an event says, and carries it as its service shows it.

The names tell which belongs to which: what `CancelOrder` does to an `Order`, `OrderCancelled` says. An aggregate is a
resource that can be changed, so an answer with an etag; what belongs to one begins with its name, as a `ProjectMember`.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf.descriptor import Descriptor
from protomesh.options.v1 import options_pb2

from chassis import contract
from chassis.contract import MethodContract

ROOT = Path(__file__).resolve().parents[2]
METHODS = [method for method in contract.platform() if not method.foreign]
ANSWERS = {
    part.name: part for method in METHODS for part in contract.reachable(method.descriptor.output_type)
}
AGGREGATES = {name for name, message in ANSWERS.items() if "etag" in message.fields_by_name}
EVENTS = {
    message.name: message
    for file in contract.files()
    for message in file.message_types_by_name.values()
    if message.GetOptions().HasExtension(options_pb2.event)
}
# What is done with a user's session changes no user; SessionsRevoked tells what ended.
OF_SESSIONS = {"LoginUser", "LogoutUser"}
# It tells of sessions, which are no resource.
WITHOUT_RESOURCE = {"SessionsRevoked"}


def changes() -> Iterator[tuple[MethodContract, str]]:
    """The RPCs that change an aggregate or what belongs to one, each with the event that must tell of it."""
    for method in METHODS:
        verb, noun = re.fullmatch(r"([A-Z][a-z]+)(\w*)", method.name).groups()  # type: ignore[union-attr]
        belongs = any(noun.startswith(aggregate) for aggregate in AGGREGATES) and noun in ANSWERS
        if method.idempotency_level != "no_side_effects" and belongs and method.name not in OF_SESSIONS:
            yield method, noun + participle(verb)


def participle(verb: str) -> str:
    return {"Cancel": "Cancelled"}.get(verb, verb + ("d" if verb.endswith("e") else "ed"))


def names_in(folder: Path) -> set[str]:
    """Every name in the code below a folder."""
    nodes = (node for path in folder.rglob("*.py") for node in ast.walk(ast.parse(path.read_text())))
    named = (node for node in nodes if isinstance(node, ast.Name | ast.Attribute))
    return {node.id if isinstance(node, ast.Name) else node.attr for node in named}


@pytest.mark.parametrize(("method", "event"), list(changes()), ids=lambda each: getattr(each, "name", each))
def test_what_an_rpc_does_to_an_aggregate_an_event_says(method: MethodContract, event: str) -> None:
    assert event in EVENTS, f"{method.full_name} changes an aggregate, and no event says {event}"


def test_the_rule_finds_the_changes_of_all_four_services() -> None:
    assert {method.deployable for method, _ in changes()} >= {"catalog", "identity", "ordering", "projects"}


@pytest.mark.parametrize("event", list(EVENTS.values()), ids=lambda message: message.name)
def test_an_event_carries_its_resource_as_the_service_shows_it(event: Descriptor) -> None:
    held = {field.message_type.name for field in event.fields if field.message_type is not None}
    assert held & set(ANSWERS) or event.name in WITHOUT_RESOURCE


@pytest.mark.parametrize(("method", "event"), list(changes()), ids=lambda each: getattr(each, "name", each))
def test_the_service_publishes_what_its_rpcs_do(method: MethodContract, event: str) -> None:
    assert event in names_in(ROOT / "services" / method.deployable)
