"""The rules that every contract keeps, whoever wrote it."""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf import timestamp_pb2
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FileDescriptor
from protomesh.options.v1 import options_pb2
from protomesh.type.v1 import error_reason_pb2

from chassis import contract
from chassis.contract import MethodContract
from meshctl.build.gen.comments import Comments
from meshctl.core import deployables

ROOT = Path(__file__).resolve().parents[2]
METHODS = contract.platform()
# Contracts that others wrote, and that we must speak as they are.
OURS = [file for file in contract.files() if file.package.startswith("protomesh.")]
OUR_METHODS = [method for method in METHODS if method.service.startswith("protomesh.")]
REASONS = {
    value.name
    for file in contract.files()
    for enum in file.enum_types_by_name.values()
    if enum.name == "ErrorReason"
    for value in enum.values
    if value.number
}
COMMON_REASONS = set(error_reason_pb2.ErrorReason.keys())
LISTS = [method for method in OUR_METHODS if method.name.startswith("List")]
ROLES = {"staff", "customer", "service"}
DEPLOYABLES = {method.deployable for method in METHODS}

each_method = pytest.mark.parametrize("method", OUR_METHODS, ids=lambda method: method.path)


def messages(file: FileDescriptor) -> Iterator[Descriptor]:
    todo = list(file.message_types_by_name.values())
    while todo:
        message = todo.pop()
        todo += message.nested_types
        if not message.GetOptions().map_entry:
            yield message


def enums(file: FileDescriptor) -> Iterator[EnumDescriptor]:
    yield from file.enum_types_by_name.values()
    for message in messages(file):
        yield from message.enum_types


def has_path(message: Descriptor, path: str) -> bool:
    first, _, rest = path.partition(".")
    field = message.fields_by_name.get(first)
    return field is not None and (
        not rest or (field.message_type is not None and has_path(field.message_type, rest))
    )


@each_method
def test_every_rpc_says_who_may_call_it(method: MethodContract) -> None:
    assert method.access is not None


@each_method
def test_every_rpc_has_a_deployable(method: MethodContract) -> None:
    assert method.deployable


@each_method
def test_every_rpc_is_either_internal_or_bound_to_rest(method: MethodContract) -> None:
    assert method.access is not None
    assert (method.access.kind == "internal") != bool(method.http)


@each_method
def test_a_permission_is_dotted_and_granted_to_built_in_roles(method: MethodContract) -> None:
    assert method.access is not None
    if method.access.permission:
        assert re.fullmatch(r"[a-z_]+(\.[a-z_]+)+", method.access.permission)
        assert method.access.granted_to <= ROLES


@each_method
def test_what_belongs_to_somebody_names_its_owner_in_the_answer(method: MethodContract) -> None:
    access, answer = method.access, method.descriptor.output_type
    if access is not None and access.owner_field:
        rows = answer.fields_by_name["data"].message_type if "data" in answer.fields_by_name else answer
        assert rows is not None
        assert access.owner_field in rows.fields_by_name


def test_services_name_permissions_by_their_generated_constants() -> None:
    """A permission in quotes could be misspelled; a name that is not there does not even start."""
    names, quoted = set(contract.permissions()), set()
    for path in (ROOT / "services").rglob("*.py"):
        texts = (
            node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)
        )
        quoted |= {f"{path.name}: {text}" for text in texts if text in names}
    assert quoted == set()


@each_method
def test_an_internal_rpc_names_callers_that_exist(method: MethodContract) -> None:
    assert method.access is not None
    assert method.access.callers <= DEPLOYABLES | {"edge", *deployables.PEOPLE, contract.ANY_WORKLOAD}


@each_method
def test_every_path_variable_is_a_field_of_the_request(method: MethodContract) -> None:
    for binding in method.http:
        for variable in re.findall(r"\{([^}=]+)", binding.path):
            assert has_path(method.descriptor.input_type, variable), f"{binding.path}: {variable}"


@each_method
def test_every_body_is_a_field_of_the_request_or_the_rest_of_it(method: MethodContract) -> None:
    for binding in method.http:
        assert binding.body in ("", "*") or has_path(method.descriptor.input_type, binding.body)


@each_method
def test_reads_are_gets_and_gets_are_reads(method: MethodContract) -> None:
    for binding in method.http:
        assert (binding.verb == "GET") == (method.idempotency_level == "no_side_effects")


@each_method
def test_a_get_or_a_delete_has_no_body(method: MethodContract) -> None:
    for binding in method.http:
        assert not (binding.verb in ("GET", "DELETE") and binding.body)


@each_method
def test_only_public_reads_may_be_cached(method: MethodContract) -> None:
    if method.cache is not None:
        assert method.access is not None
        assert (method.access.kind, method.idempotency_level) == ("public", "no_side_effects")


@each_method
def test_a_call_that_takes_a_key_is_harmless_to_repeat(method: MethodContract) -> None:
    if method.idempotency_key != "none":
        assert method.idempotency_level == "idempotent"


@each_method
def test_only_a_put_or_a_delete_is_harmless_to_repeat_by_its_nature(method: MethodContract) -> None:
    if method.idempotency_level == "idempotent" and method.idempotency_key == "none":
        assert method.http
        assert {binding.verb for binding in method.http} <= {"PUT", "DELETE"}


@each_method
def test_the_reasons_that_an_rpc_declares_are_those_that_its_comment_explains(
    method: MethodContract, comments: Comments
) -> None:
    said = set(re.findall(r"\b[A-Z_]{4,}\b", comments.errors(method.full_name))) & REASONS
    assert method.errors <= REASONS
    # Any RPC may give a common reason; a comment or a declaration may say when.
    assert said - COMMON_REASONS == method.errors - COMMON_REASONS


@each_method
def test_a_change_that_takes_an_etag_says_that_it_may_be_refused(method: MethodContract) -> None:
    if "etag" in method.descriptor.input_type.fields_by_name:
        assert "ETAG_MISMATCH" in method.errors


@each_method
def test_every_rate_limit_names_its_window(method: MethodContract) -> None:
    if method.rate_limit is not None:
        quotas = [quota for _, quota in method.rate_limit.ListFields()]
        assert quotas
        assert all(quota.requests and quota.per for quota in quotas)


@pytest.mark.parametrize("method", LISTS, ids=lambda method: method.path)
def test_every_list_paginates(method: MethodContract) -> None:
    request, answer = method.descriptor.input_type, method.descriptor.output_type
    assert {"page", "limit", "cursor"} <= set(request.fields_by_name)
    assert [field.name for field in answer.fields] == ["data", "meta"]
    assert answer.fields_by_name["data"].is_repeated
    meta = answer.fields_by_name["meta"].message_type
    assert meta is not None
    assert meta.full_name == "protomesh.type.v1.PageMeta"


def test_no_two_bindings_collide() -> None:
    bindings = [(b.verb, re.sub(r"\{[^}]*\}", "{}", b.path)) for method in METHODS for b in method.http]
    assert [binding for binding, times in Counter(bindings).items() if times > 1] == []


def test_every_binding_is_versioned_or_well_known() -> None:
    paths = [binding.path for method in METHODS for binding in method.http]
    assert [path for path in paths if not path.startswith(("/v1/", "/.well-known/"))] == []


@pytest.mark.parametrize("file", OURS, ids=lambda file: file.name)
def test_everything_in_a_contract_is_commented(file: FileDescriptor, comments: Comments) -> None:
    names = [message.full_name for message in messages(file)]
    names += [field.full_name for message in messages(file) for field in message.fields]
    names += [enum.full_name for enum in enums(file)]
    names += [f"{enum.full_name}.{value.name}" for enum in enums(file) for value in enum.values]
    names += [service.full_name for service in file.services_by_name.values()]
    names += [rpc.full_name for service in file.services_by_name.values() for rpc in service.methods]
    names += [extension.full_name for extension in file.extensions_by_name.values()]
    assert [name for name in names if not comments.of(name)] == []


@pytest.mark.parametrize("file", OURS, ids=lambda file: file.name)
def test_enums_start_at_unspecified_and_show_in_lower_snake(file: FileDescriptor) -> None:
    for enum in enums(file):
        if enum.name != "ErrorReason":
            assert enum.values[0].name.endswith("_unspecified")
            assert all(re.fullmatch(r"[a-z][a-z0-9_]*", value.name) for value in enum.values)


@pytest.mark.parametrize("file", OURS, ids=lambda file: file.name)
def test_times_are_named_at(file: FileDescriptor) -> None:
    fields = (field for message in messages(file) for field in message.fields)
    times = (field for field in fields if field.message_type == timestamp_pb2.Timestamp.DESCRIPTOR)
    assert [field.full_name for field in times if not field.name.endswith(("_at", "_from", "_until"))] == []


@pytest.mark.parametrize("file", OURS, ids=lambda file: file.name)
def test_every_event_has_a_versioned_subject_a_stream_and_an_aggregate(file: FileDescriptor) -> None:
    for message in messages(file):
        event = message.GetOptions().Extensions[options_pb2.event]
        assert message.GetOptions().HasExtension(options_pb2.event) == file.name.endswith("_events.proto")
        if event.subject:
            domain = file.package.split(".")[1]
            assert re.fullmatch(rf"{domain}(\.[a-z_]+)+\.v1", event.subject)
            assert event.stream == domain.upper()
            assert event.aggregate_id_field in message.fields_by_name


def test_every_subscriber_of_an_event_is_a_subscription_of_another_service() -> None:
    for kind in contract.all_event_types().values():
        for name in kind.subscribers - {contract.EVERY_SERVICE}:
            service, _, reaction = name.partition(".")
            assert service in DEPLOYABLES - {kind.stream.lower()}, kind.name
            assert re.fullmatch(r"[a-z_]+", reaction), kind.name


def test_no_two_events_share_a_subject() -> None:
    options = (message.GetOptions() for file in OURS for message in messages(file))
    subjects = Counter(option.Extensions[options_pb2.event].subject for option in options)
    assert [subject for subject, times in subjects.items() if subject and times > 1] == []
