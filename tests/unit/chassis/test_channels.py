"""Channels: what a call takes along, how long it may take, whether it is repeated, and where it goes."""

import asyncio
import pathlib
import time
from contextlib import aclosing
from typing import Any

import grpc
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from chassis import contract
from chassis.core import errors
from chassis.observe import tracing
from chassis.rpc import Call, Caller, current_call
from tests import certificates
from tests.proxy import Proxy
from tests.unit.chassis.stand import SERVICE, Spans, Stand, Thing, bearer, method, running, token

CODE = grpc.StatusCode


def answering(seconds: float, caller: Caller | None = None) -> Call:
    """A call that is being answered, with so much time left."""
    call = Call(contract.method_at(f"/{SERVICE}/Open"), {})
    call.deadline = asyncio.get_running_loop().time() + seconds
    call.caller = caller or call.caller
    return call


async def test_an_inner_call_gets_what_is_left_less_a_reserve(stand: Stand) -> None:
    await method(stand.channel(), "Onward")(Thing(text="Mine"), metadata=bearer(token()), timeout=1)
    # A tenth, or 150 ms, is kept at each of the two servers, and 50 ms on the way between them.
    assert 0.5 < stand.scratch.call.remaining() <= 0.77


async def test_a_call_without_time_left_fails_at_once(stand: Stand) -> None:
    current_call.set(answering(0.06))
    try:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await method(stand.channel(), "Open")(Thing())
    finally:
        current_call.set(None)
    assert caught.value.code() is CODE.DEADLINE_EXCEEDED
    assert errors.reason_of(caught.value) == "DEADLINE_EXCEEDED"


async def test_a_call_of_its_own_gets_the_contracts_timeout(stand: Stand) -> None:
    begin = time.monotonic()
    with pytest.raises(grpc.aio.AioRpcError):
        await method(stand.channel(), "Slow")(Thing())
    assert 0.25 < time.monotonic() - begin < 1.5


async def test_the_users_token_goes_along(stand: Stand) -> None:
    await method(stand.channel(), "Onward")(Thing(text="Mine"), metadata=bearer(token()))
    assert stand.scratch.call.caller.user_id
    assert stand.scratch.workload == "scratch"


async def test_a_failure_of_an_inner_call_keeps_what_it_says_about_the_request(stand: Stand) -> None:
    stand.scratch.error = errors.FailedPrecondition("OUT_OF_STOCK", "None left.", metadata={"available": "0"})
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await method(stand.channel(), "Onward")(Thing(text="Fail"))
    assert caught.value.code() is CODE.FAILED_PRECONDITION
    assert errors.from_rpc(caught.value).metadata == {"available": "0"}


async def test_a_failure_of_an_inner_call_that_is_about_us_is_ours(stand: Stand) -> None:
    stand.scratch.error = errors.PermissionDenied("WORKLOAD_NOT_ALLOWED", "No.")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await method(stand.channel(), "Onward")(Thing(text="Fail"))
    assert caught.value.code() is CODE.INTERNAL


@pytest.mark.parametrize(
    ("inner", "outer"),
    [
        (errors.overloaded(), grpc.StatusCode.UNAVAILABLE),
        (errors.Unauthenticated("TOKEN_INVALID", "Expired."), grpc.StatusCode.UNAUTHENTICATED),
        (errors.AlreadyExists("NAME_TAKEN", "Taken."), grpc.StatusCode.ALREADY_EXISTS),
    ],
    ids=["overload", "expired token", "taken"],
)
async def test_a_failure_of_an_inner_call_is_told_for_what_the_caller_can_do_about_it(
    stand: Stand, inner: errors.MeshError, outer: grpc.StatusCode
) -> None:
    stand.scratch.error = inner
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await method(stand.channel(), "Onward")(Thing(text="Fail"))
    assert caught.value.code() is outer
    assert errors.reason_of(caught.value)


async def test_a_read_is_repeated_when_the_server_is_unavailable(stand: Stand) -> None:
    stand.scratch.failures = 2
    assert (await method(stand.channel(), "Read")(Thing(text="x"))).text == "x"
    assert stand.scratch.failures == 0


async def test_a_read_is_tried_three_times_at_the_most(stand: Stand) -> None:
    stand.scratch.failures = 10
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await method(stand.channel(), "Read")(Thing())
    assert caught.value.code() is CODE.UNAVAILABLE
    assert stand.scratch.failures == 7


async def test_what_has_effects_is_never_repeated(stand: Stand) -> None:
    stand.scratch.error = errors.unavailable()
    with pytest.raises(grpc.aio.AioRpcError):
        await method(stand.channel(), "Fail")(Thing())
    assert stand.scratch.failed == 1


async def test_an_answers_headers_can_be_read(stand: Stand) -> None:
    call = method(stand.channel(), "Cached")(Thing())
    await call
    assert dict(await call.initial_metadata())["cache-control"] == "public, max-age=60"


async def test_one_trace_runs_through_client_and_server(
    stand: Stand, spans: Spans, certificate_directory: Any
) -> None:
    async with running(certificate_directory) as fresh:
        with tracing.span("test"):
            trace_id = tracing.trace_id()
            await method(fresh.channel(), "Onward")(Thing(text="Open"))
    tracing.recorder().flush()
    tree = {span.span_id: span for span in spans.all if span.trace_id.hex() == trace_id}
    leaf = next(
        span for span in tree.values() if span.name.endswith("/Open") and span.kind == span.SPAN_KIND_SERVER
    )
    path = [leaf]
    while path[-1].parent_span_id in tree:
        path.append(tree[path[-1].parent_span_id])
    names = [span.name.rpartition("/")[2] for span in path]
    assert names == ["Open", "Open", "Onward", "Onward", "test"]


async def test_a_call_leaves_a_client_span_with_its_outcome(spans: Spans, certificate_directory: Any) -> None:
    async with running(certificate_directory) as stand:
        channel = stand.channel()
        await method(channel, "Open")(Thing())
        stand.scratch.error = errors.NotFound("GONE", "It is gone.")
        with pytest.raises(grpc.aio.AioRpcError):
            await method(channel, "Fail")(Thing())
        async with aclosing(aiter(method(channel, "Watch")(Thing(count=2, text="hold")))) as things:
            await anext(things)  # and has read enough
        stand.scratch.started.clear()
        slow = asyncio.ensure_future(anext(aiter(method(channel, "Watch")(Thing(text="hold")))))
        await asyncio.wait_for(stand.scratch.started.wait(), 5)
        slow.cancel()
        await asyncio.wait([slow])
    tracing.recorder().flush()
    assert [
        (attribute.value.string_value, span.status.code == Status.STATUS_CODE_ERROR)
        for span in spans.all
        if span.kind == Span.SPAN_KIND_CLIENT
        for attribute in span.attributes
        if attribute.key == "rpc.response.status_code"
    ] == [("OK", False), ("NOT_FOUND", True), ("OK", False), ("CANCELLED", True)]


async def test_an_untraced_call_begins_no_trace_and_is_part_of_one_all_the_same(
    stand: Stand, spans: Spans, certificate_directory: Any
) -> None:
    async with running(certificate_directory) as fresh:
        untraced = method(fresh.channel(), "Untraced")
        await untraced(Thing())
        with tracing.span("test"):
            trace_id = tracing.trace_id()
            await untraced(Thing())
    tracing.recorder().flush()
    ours = [span for span in spans.all if span.name.endswith("/Untraced")]
    assert [span.trace_id.hex() for span in ours] == [trace_id] * 2


async def test_calls_are_spread_over_all_endpoints(certificate_directory: Any) -> None:
    async with running(certificate_directory) as one, running(certificate_directory) as two:
        targets = {"scratch": f"ipv4:127.0.0.1:{one.port},127.0.0.1:{two.port}"}
        call = method(one.channel(targets=targets), "Open")
        async with asyncio.timeout(10):
            while one.scratch.call is None or two.scratch.call is None:
                await call(Thing())


async def test_no_call_fails_when_an_endpoint_drains(certificate_directory: Any) -> None:
    async with running(certificate_directory) as one:
        stop = asyncio.Event()

        async def load(call: Any) -> int:
            done = 0
            while not stop.is_set():
                await call(Thing())
                done += 1
            return done

        async with running(certificate_directory, drain_wait_seconds=0.3) as two:
            targets = {"scratch": f"ipv4:127.0.0.1:{one.port},127.0.0.1:{two.port}"}
            channel = one.channel(targets=targets)
            loads = [asyncio.ensure_future(load(method(channel, "Open"))) for _ in range(4)]
            await asyncio.wait_for(two.scratch.asked.wait(), 10)
        one.scratch.asked.clear()
        await asyncio.wait_for(one.scratch.asked.wait(), 10)
        stop.set()
        assert sum(await asyncio.gather(*loads)) > 0


async def test_a_draining_endpoint_gets_no_new_call_while_it_still_serves(certificate_directory: Any) -> None:
    """Its health says so, and the channel watches that."""
    async with (
        running(certificate_directory) as one,
        running(certificate_directory, drain_wait_seconds=3) as two,
    ):
        call = method(
            one.channel(targets={"scratch": f"ipv4:127.0.0.1:{one.port},127.0.0.1:{two.port}"}), "Open"
        )
        async with asyncio.timeout(10):
            while not two.scratch.asked.is_set():
                await call(Thing())
        two.stop.set()
        async with asyncio.timeout(3):
            while await reached(two, call):
                pass
        assert not two.ended.is_set()


async def reached(stand: Stand, call: Any) -> bool:
    """Whether a few calls in a row reach an endpoint."""
    stand.scratch.asked.clear()
    for _ in range(10):
        await call(Thing())
    return stand.scratch.asked.is_set()


async def test_a_server_of_another_name_is_not_talked_to(stand: Stand) -> None:
    wrong = stand.channel("edge", targets={"scratch": f"ipv4:127.0.0.1:{stand.port}"})
    wrong._upstream("scratch")._deployable = "catalog"
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await method(wrong, "Open")(Thing(), timeout=1)
    assert caught.value.code() in (CODE.UNAVAILABLE, CODE.DEADLINE_EXCEEDED)


async def test_a_client_without_a_certificate_is_not_served(
    stand: Stand, certificate_directory: pathlib.Path
) -> None:
    authority = certificate_directory.joinpath("ca.pem").read_bytes()
    options = (("grpc.ssl_target_name_override", "scratch"),)
    credentials = grpc.ssl_channel_credentials(authority)
    async with grpc.aio.secure_channel(f"127.0.0.1:{stand.port}", credentials, options) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await method(channel, "Open")(Thing(), timeout=1)
    assert caught.value.code() in (CODE.UNAVAILABLE, CODE.DEADLINE_EXCEEDED)


async def test_plain_text_is_not_served(stand: Stand) -> None:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{stand.port}") as channel:
        with pytest.raises(grpc.aio.AioRpcError):
            await method(channel, "Open")(Thing(), timeout=1)


async def test_renewed_certificates_are_taken_without_a_restart(tmp_path: Any) -> None:
    old = certificates.issue(tmp_path, "scratch", "edge")
    async with running(tmp_path) as stand:
        channel = stand.channel()
        await method(channel, "Open")(Thing())
        new = certificates.Authority()
        for name in ("scratch", "edge"):
            new.issue(tmp_path, name)
        await _until_served(method(channel, "Open"))  # the open channel moves over
        await _until_served(method(stand.channel(), "Open"))
        other = tmp_path / "other"
        other.mkdir()
        old.issue(other, "edge")
        with pytest.raises(grpc.aio.AioRpcError):
            await method(stand.channel(tls_directory=other), "Open")(Thing(), timeout=1)


async def test_an_open_channel_moves_over_to_renewed_certificates_and_running_calls_go_on(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chassis.trust.certificates._CHECK_SECONDS", 0.0)
    authority = certificates.issue(tmp_path, "scratch", "edge")
    async with running(tmp_path) as stand, Proxy.before("127.0.0.1", stand.port) as proxy:
        channel = stand.channel(targets={"scratch": f"ipv4:127.0.0.1:{proxy.port}"})
        watch = method(channel, "Watch")(Thing(text="hold", count=1))
        assert await watch.read() == Thing()
        await method(channel, "Open")(Thing())
        assert proxy.accepted == 1
        authority.issue(tmp_path, "edge")
        for _ in range(2):
            await method(channel, "Open")(Thing())
            assert proxy.accepted == 2
        assert not watch.done()
        watch.cancel()


async def test_the_state_of_a_channel_to_many_cannot_be_asked_for(stand: Stand) -> None:
    channel = stand.channel()
    with pytest.raises(NotImplementedError):
        channel.get_state()
    with pytest.raises(NotImplementedError):
        await channel.wait_for_state_change(grpc.ChannelConnectivity.READY)
    with pytest.raises(NotImplementedError):
        await channel.channel_ready()


async def _until_served(call: Any) -> None:
    """Calls until the server has looked at its files again, which it does once a second."""
    async with asyncio.timeout(10):
        while True:
            try:
                await call(Thing(), timeout=1)
            except grpc.aio.AioRpcError:
                await asyncio.sleep(0.1)
            else:
                return
