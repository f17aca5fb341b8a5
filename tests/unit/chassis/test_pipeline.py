"""The pipeline: what stands where, and what it does to calls of every shape."""

import asyncio
import gc
import pathlib
import time
import weakref
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from chassis import contract
from chassis.contract import ContractError
from chassis.core import Settings, errors
from chassis.data import Database
from chassis.rpc import Call, pipeline
from chassis.rpc.stages import Admission, PerCaller
from chassis.service import Service
from chassis.trust import Revocations, TokenVerifier
from tests.patience import eventually
from tests.unit.chassis.stand import (
    SERVICE,
    Goods,
    Keys,
    Part,
    Scratch,
    Sheet,
    Stand,
    Thing,
    bearer,
    method,
    running,
    token,
)

CODE = grpc.StatusCode


async def failure(call: Any) -> grpc.aio.AioRpcError:
    """How a call failed."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


def raw(stand: Stand) -> Any:
    """A channel's method that takes bytes."""
    return stand.plain().unary_unary


def names(rpc: str) -> list[str]:
    return names_at(f"/{SERVICE}/{rpc}", None)


def names_at(path: str, database: Database | None) -> list[str]:
    verifier = TokenVerifier(Keys(), Revocations(), issuer="protomesh", audience="protomesh")
    parts = pipeline.Parts(verifier, Admission(1, 1), PerCaller(1, 1), "protomesh.local", 1 << 20, database)
    return [name for name, _ in pipeline.stages_of(contract.method_at(path), parts)]


def test_the_stages_stand_in_this_order() -> None:
    assert [step.name for step in pipeline.STEPS] == [
        "telemetry",
        "admission",
        "deadline",
        "audit",
        "caller",
        "per caller",
        "session",
        "access",
        "validation",
        "caching",
        "idempotency",
        "reasons",
    ]


def test_every_stage_has_a_reason_for_its_place() -> None:
    assert all(step.reason.endswith(".") for step in pipeline.STEPS)


def test_stages_that_an_rpc_does_not_need_are_left_out() -> None:
    always = ["telemetry", "admission", "deadline", "caller", "validation"]
    assert names("Open") == always
    assert names("Mine") == [*always[:4], "per caller", "access", "validation"]
    assert names("Cached") == [*always, "caching"]
    assert "audit" not in names("Write")


async def test_a_unary_call_is_answered(stand: Stand) -> None:
    answer = await method(stand.channel(), "Open")(Thing(text="hello"))
    assert answer.text == "hello"


async def test_a_server_stream_is_answered_message_by_message(stand: Stand) -> None:
    answers = [thing.count async for thing in method(stand.channel(), "Watch")(Thing(count=3))]
    assert answers == [0, 1, 2]


async def test_a_server_stream_sends_its_headers_before_its_first_message(
    certificate_directory: pathlib.Path,
) -> None:
    class Headed(Scratch):
        async def Watch(self, request: Any, call: Any) -> AsyncIterator[Any]:
            call.set_header("x-first", "1")
            yield Thing(count=1)
            await asyncio.Event().wait()

    async with running(certificate_directory, servicer=lambda _: Headed()) as stand:
        stream = method(stand.plain(), "Watch")(Thing())
        assert (await stream.read()).count == 1
        assert dict(await stream.initial_metadata())["x-first"] == "1"
        stream.cancel()


async def test_a_server_stream_that_fails_gives_what_it_had_and_then_its_status(stand: Stand) -> None:
    answers = aiter(method(stand.channel(), "Watch")(Thing(count=2, text="fail")))
    assert [(await anext(answers)).count, (await anext(answers)).count] == [0, 1]
    assert errors.reason_of(await failure(anext(answers))) == "GONE"


async def test_a_reader_who_leaves_ends_the_stream_at_the_server(stand: Stand) -> None:
    call = method(stand.channel(), "Watch")(Thing(text="hold"))
    reading = asyncio.ensure_future(anext(aiter(call)))
    await asyncio.wait_for(stand.scratch.started.wait(), 5)
    reading.cancel()
    await asyncio.wait_for(stand.scratch.cancelled.wait(), 5)


async def things(*counts: int) -> AsyncIterator[Any]:
    for count in counts:
        yield Thing(count=count)


async def test_a_client_stream_is_taken(stand: Stand) -> None:
    answer = await method(stand.channel(), "Collect")(things(1, 2, 3), metadata=bearer(token()))
    assert answer.count == 6


async def test_each_message_of_a_client_stream_is_validated(stand: Stand) -> None:
    error = await failure(method(stand.channel(), "Collect")(things(1, -1), metadata=bearer(token())))
    assert error.code() is CODE.INVALID_ARGUMENT


async def test_access_is_checked_before_a_client_stream_is_read(stand: Stand) -> None:
    error = await failure(method(stand.channel(), "Collect")(things(-1)))
    assert errors.reason_of(error) == "TOKEN_MISSING"


async def test_a_conversation_goes_both_ways(stand: Stand) -> None:
    async def said() -> AsyncIterator[Any]:
        yield Thing(text="one")
        yield Thing(text="two")

    assert [thing.text async for thing in method(stand.channel(), "Chat")(said())] == ["ONE", "TWO"]


@pytest.mark.parametrize(
    ("request_of", "field"),
    [
        (lambda: Thing(text="a\0b"), "text"),
        (lambda: Thing(pin="\0"), "pin"),
        (lambda: Thing(parts=[Part(), Part(email="\0")]), "parts[1].email"),
        (lambda: Thing(labels={"a": "\0"}), "labels['a']"),
        (lambda: Thing(labels={"\0": "a"}), "labels"),
        (lambda: Thing(names=["a", "\0"]), "names[1]"),
    ],
)
async def test_a_nul_is_refused_in_every_string(stand: Stand, request_of: Any, field: str) -> None:
    error = errors.from_rpc(await failure(method(stand.channel(), "Open")(request_of())))
    assert (error.code, error.reason) == (CODE.INVALID_ARGUMENT, "VALIDATION_FAILED")
    assert error.violations == ((field, "must not hold a NUL character"),)


async def test_what_the_contract_leaves_to_the_handler_is_passed_over(stand: Stand) -> None:
    request = Thing(rows=[Part(email="\0")])
    assert await method(stand.channel(), "Open")(request) == request


async def test_a_zero_byte_that_is_no_text_passes(stand: Stand) -> None:
    request = Thing(parts=[Part(weights=[0, 0], share=0.5)], text="no NUL here")
    assert await method(stand.channel(), "Open")(request) == request


async def test_each_message_of_a_client_stream_is_free_of_nul(stand: Stand) -> None:
    call = method(stand.channel(), "Chat")(iter([Thing(text="a"), Thing(text="\0")]))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        _ = [message async for message in call]
    assert errors.reason_of(caught.value) == "VALIDATION_FAILED"


@pytest.mark.parametrize("text", [b"\xed\xa0\x80", b"\xff", b"\xc0\x80"])
async def test_text_that_is_not_utf_8_is_no_message(stand: Stand, text: bytes) -> None:
    path = f"/{SERVICE}/Open"
    call = raw(stand)(path, lambda data: data, lambda data: data)(b"\x0a" + bytes([len(text)]) + text)
    error = errors.from_rpc(await failure(call))
    assert (error.code, error.reason) == (CODE.INVALID_ARGUMENT, "REQUEST_MALFORMED")


async def test_a_broken_rule_names_its_field(stand: Stand) -> None:
    request = Thing(count=-1, parts=[{}, {"id": "nonsense"}])
    error = errors.from_rpc(await failure(method(stand.channel(), "Open")(request)))
    assert (error.code, error.reason) == (CODE.INVALID_ARGUMENT, "VALIDATION_FAILED")
    assert [field for field, _ in error.violations] == ["count", "parts[1].id"]
    assert all(text for _, text in error.violations)


async def test_a_stranger_is_refused_before_the_request_is_looked_at(stand: Stand) -> None:
    error = await failure(method(stand.channel(), "Mine")(Thing(count=-1)))
    assert error.code() is CODE.UNAUTHENTICATED


async def test_bytes_that_are_no_message_are_refused_in_full_form(stand: Stand) -> None:
    error = await failure(raw(stand)(f"/{SERVICE}/Open")(b"\xff\xff"))
    assert error.code() is CODE.INVALID_ARGUMENT
    assert errors.reason_of(error) == "REQUEST_MALFORMED"


async def test_a_request_above_the_contracts_size_is_refused(stand: Stand) -> None:
    largest = Thing(text="x" * 98)
    assert largest.ByteSize() == 100
    assert await method(stand.channel(), "Small")(largest) == largest
    error = await failure(method(stand.channel(), "Small")(Thing(text="x" * 99)))
    assert errors.reason_of(error) == "REQUEST_TOO_LARGE"


async def test_an_rpc_that_nobody_has_is_answered_in_full_form(stand: Stand) -> None:
    error = await failure(raw(stand)(f"/{SERVICE}/Missing")(b""))
    assert error.code() is CODE.UNIMPLEMENTED
    assert errors.reason_of(error) == "UNIMPLEMENTED"


async def test_an_unknown_exception_says_nothing_about_itself(stand: Stand, caplog: Any) -> None:
    error = await failure(method(stand.channel(), "Fail")(Thing()))
    assert error.code() is CODE.INTERNAL
    assert errors.reason_of(error) == "INTERNAL"
    assert "secret" not in f"{error.details()} {error.trailing_metadata()}"
    assert "secret text" in caplog.text
    assert len(str(dict(error.trailing_metadata())["x-trace-id"])) == 32


async def test_a_mesh_error_arrives_with_all_its_details(stand: Stand) -> None:
    stand.scratch.error = errors.ResourceExhausted(
        "RATE_LIMITED",
        "Slow down.",
        metadata={"a": "b"},
        violations=[("user:1", "10 a minute")],
        retry_after=1.5,
    )
    error = errors.from_rpc(await failure(method(stand.channel(), "Fail")(Thing())))
    assert isinstance(error, errors.ResourceExhausted)
    assert (error.reason, error.message, error.metadata) == ("RATE_LIMITED", "Slow down.", {"a": "b"})
    assert (error.violations, error.retry_after) == ((("user:1", "10 a minute"),), 1.5)


async def test_a_handler_that_answers_nothing_is_our_fault(stand: Stand) -> None:
    error = await failure(method(stand.channel(), "Nothing")(Thing()))
    assert error.code() is CODE.INTERNAL


async def test_a_cancellation_that_nobody_asked_for_is_our_fault(stand: Stand) -> None:
    stand.scratch.error = asyncio.CancelledError()
    error = await failure(method(stand.channel(), "Fail")(Thing()))
    assert error.code() is CODE.INTERNAL


async def test_a_call_without_a_deadline_gets_the_contracts(stand: Stand) -> None:
    begin = time.monotonic()
    error = await failure(method(stand.plain(), "Slow")(Thing()))
    assert error.code() is CODE.DEADLINE_EXCEEDED
    assert errors.reason_of(error) == "DEADLINE_EXCEEDED"
    assert 0.25 < time.monotonic() - begin < 1.5
    assert stand.scratch.cancelled.is_set()


async def test_a_longer_deadline_than_the_contracts_is_cut(stand: Stand) -> None:
    error = await failure(method(stand.plain(), "Slow")(Thing(), timeout=10))
    assert errors.reason_of(error) == "DEADLINE_EXCEEDED"


async def test_a_shorter_deadline_cancels_the_handler(stand: Stand) -> None:
    error = await failure(method(stand.plain(), "Slow")(Thing(), timeout=0.1))
    assert error.code() is CODE.DEADLINE_EXCEEDED
    await asyncio.wait_for(stand.scratch.cancelled.wait(), 0.15)
    assert stand.scratch.call.remaining() == 0


async def test_a_client_that_leaves_cancels_the_handler(stand: Stand) -> None:
    call = method(stand.plain(), "Slow")(Thing())
    await asyncio.wait_for(stand.scratch.started.wait(), 5)
    call.cancel()
    await asyncio.wait_for(stand.scratch.cancelled.wait(), 0.25)


async def test_a_call_that_ended_leaves_no_garbage(certificate_directory: Any) -> None:
    calls: list[weakref.ref[Call]] = []

    class Forgetful(Scratch):
        async def Open(self, request: Any, call: Call) -> Any:
            calls.append(weakref.ref(call))
            return request

    async with running(certificate_directory, servicer=lambda _: Forgetful()) as stand:
        gc.disable()
        try:
            for _ in range(3):
                await method(stand.plain(), "Open")(Thing(), timeout=30)
            await eventually(lambda: all(call() is None for call in calls))
        finally:
            gc.enable()


async def test_a_full_server_refuses_at_once(certificate_directory: Any) -> None:
    async with running(certificate_directory, maximum_concurrent_rpcs=1) as stand:
        channel = stand.channel()
        call = method(channel, "Open")
        await call(Thing())  # connects
        slow = asyncio.ensure_future(failure(method(channel, "Slow")(Thing())))
        await asyncio.wait_for(stand.scratch.started.wait(), 5)
        error = errors.from_rpc(await failure(call(Thing())))
        assert not slow.done()  # nobody waited for it
        assert (error.code, error.reason) == (CODE.RESOURCE_EXHAUSTED, "OVERLOADED")
        assert error.retry_after
        await slow
        assert (await call(Thing(text="again"))).text == "again"


@pytest.mark.parametrize(
    ("given", "told"),
    [("DECLARED", "DECLARED"), ("CONFLICT", "CONFLICT"), ("UNHEARD_OF", "INTERNAL")],
)
async def test_where_reasons_are_checked_one_that_is_not_declared_is_a_fault(
    certificate_directory: Any, given: str, told: str
) -> None:
    async with running(certificate_directory, check_reasons=True) as stand:
        stand.scratch.error = errors.FailedPrecondition(given, "No.")
        assert errors.reason_of(await failure(method(stand.channel(), "Fail")(Thing()))) == told


async def test_elsewhere_a_caller_is_told_what_the_handler_said(stand: Stand) -> None:
    stand.scratch.error = errors.FailedPrecondition("UNHEARD_OF", "No.")
    assert errors.reason_of(await failure(method(stand.channel(), "Fail")(Thing()))) == "UNHEARD_OF"


async def test_an_answer_that_may_be_cached_says_so(stand: Stand) -> None:
    call = method(stand.plain(), "Cached")
    first, second, other = call(Thing(text="a")), call(Thing(text="a")), call(Thing(text="b"))
    headers = [dict(await one.initial_metadata()) for one in (first, second, other)]
    assert headers[0]["cache-control"] == "public, max-age=60"
    assert headers[0]["etag"] == headers[1]["etag"] != headers[2]["etag"]


async def test_the_etag_of_a_resource_is_the_etag_header_of_its_answer(stand: Stand) -> None:
    call = method(stand.plain(), "Folder")(Sheet(etag="7"))
    assert dict(await call.initial_metadata())["etag"] == '"7"'
    assert (await call).etag == "7"


@pytest.mark.parametrize("rpc", ["Folder", "Shelf"])
async def test_an_answer_without_an_etag_has_no_etag_header(stand: Stand, rpc: str) -> None:
    request = contract.method_at(f"/{SERVICE}/{rpc}").request_class()
    call = method(stand.plain(), rpc)(request)
    assert "etag" not in dict(await call.initial_metadata())
    assert (await call) == request


async def test_the_etag_of_what_may_be_cached_changes_with_all_that_is_shown(stand: Stand) -> None:
    call = method(stand.plain(), "Shelf")
    calls = [call(Goods(etag="7", stock=stock)) for stock in (3, 3, 2)]
    shown = [(dict(await one.initial_metadata())["etag"], (await one).etag) for one in calls]
    assert shown[0] == shown[1] != shown[2]
    assert all(header == f'"{etag}"' and etag.startswith("7.") for header, etag in shown)


def test_an_audited_rpc_without_a_database_is_refused() -> None:
    audited = "/protomesh.identity.v1.UserService/DisableUser"
    assert "audit" in names_at(audited, Database("postgresql://nowhere"))
    with pytest.raises(ContractError, match="DisableUser leaves audit records, so its service needs a datab"):
        names_at(audited, None)


def test_a_servicer_that_lacks_an_rpc_is_refused() -> None:
    class Half:
        async def Open(self, request: Any, call: Any) -> Any:
            return request

    with pytest.raises(ContractError, match="Half lacks Anybody"):
        Service(Settings(service="scratch")).serve(SERVICE, Half())


def test_a_servicer_with_an_rpc_too_many_is_refused() -> None:
    class More(Scratch):
        async def Extra(self, request: Any, call: Any) -> Any:
            return request

    with pytest.raises(ContractError, match="More has Extra"):
        Service(Settings(service="scratch")).serve(SERVICE, More())


def test_an_rpc_without_access_is_refused() -> None:
    class Loose:
        async def Open(self, request: Any, call: Any) -> Any:
            return request

    with pytest.raises(ContractError, match=r"LooseService\.Open has no access option"):
        Service(Settings(service="scratch")).serve("scratch.v1.LooseService", Loose())
