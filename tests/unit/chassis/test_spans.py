"""Spans, as they arrive at a collector."""

import asyncio
import pathlib
from typing import Any

import grpc
import pytest
from opentelemetry import trace
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio
from opentelemetry.trace import Link, SpanContext, SpanKind, StatusCode

from chassis.core import errors
from chassis.observe import Batching, OtlpExport, Recorder, Template, exporter, tracing
from chassis.trust import Certificates
from tests import certificates
from tests.proxy import Proxy
from tests.unit.chassis.stand import Spans, Thing, method, running

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
UNSAMPLED = PARENT[:-1] + "0"
WORK = Template("work", SpanKind.CONSUMER)


def recorded(spans: Spans) -> list[Span]:
    tracing.recorder().flush()
    return spans.all


def attributes(span: Span) -> dict[str, str]:
    return {item.key: item.value.string_value for item in span.attributes}


def test_a_span_arrives_with_all_that_was_said_of_it(spans: Spans) -> None:
    link = Link(SpanContext(1, 2, is_remote=True))
    with tracing.span(
        "work", SpanKind.PRODUCER, {"text": "a", "count": 2, "list": ["b"]}, links=(link,)
    ) as span:
        span.set_attribute("late", True)
        span.add_event("noticed", {"what": "c"})
    (found,) = recorded(spans)
    assert (found.name, found.kind) == ("work", Span.SPAN_KIND_PRODUCER)
    values = {item.key: item.value for item in found.attributes}
    assert (values["text"].string_value, values["count"].int_value, values["late"].bool_value) == (
        "a",
        2,
        True,
    )
    assert values["list"].array_value.values[0].string_value == "b"
    assert found.events[0].name == "noticed"
    assert found.links[0].span_id == (2).to_bytes(8, "big")
    assert 0 < found.start_time_unix_nano <= found.end_time_unix_nano


def test_what_the_api_of_opentelemetry_says_of_a_span_arrives(spans: Spans) -> None:
    span = tracing.recorder().start(Template("work", SpanKind.SERVER))
    span.update_name("other work")
    span.add_link(SpanContext(1, 2, is_remote=True), {"why": "a"})
    span.record_exception(ValueError("secret"), {"where": "b"})
    span.set_status(StatusCode.ERROR, "c")
    span.end()
    (found,) = recorded(spans)
    assert (found.name, found.status.message) == ("other work", "c")
    assert found.links[0].trace_id == (1).to_bytes(16, "big")
    assert {item.key: item.value.string_value for item in found.events[0].attributes} == {
        "exception.type": "ValueError",
        "where": "b",
    }
    assert b"secret" not in found.SerializeToString()


def test_a_failure_is_named_by_its_class_alone(spans: Spans) -> None:
    with pytest.raises(ValueError, match="secret"), tracing.span("work"):
        raise ValueError("secret")
    (found,) = recorded(spans)
    assert (found.status.code, found.status.message) == (Status.STATUS_CODE_ERROR, "ValueError")
    assert b"secret" not in found.SerializeToString()


def test_a_remote_parent_is_joined(spans: Spans) -> None:
    with tracing.using(tracing.start(WORK, {"traceparent": PARENT})):
        assert tracing.trace_headers()["traceparent"].startswith(PARENT[:36])
    (found,) = recorded(spans)
    assert (found.trace_id.hex(), found.parent_span_id.hex()) == (PARENT[3:35], PARENT[36:52])


def test_a_trace_that_its_caller_does_not_record_is_not_recorded_but_goes_on(spans: Spans) -> None:
    with tracing.using(tracing.start(WORK, {"traceparent": UNSAMPLED})):
        assert tracing.trace_headers()["traceparent"].startswith(PARENT[:36])
        assert tracing.trace_headers()["traceparent"].endswith("-00")
    assert recorded(spans) == []


@pytest.mark.parametrize(
    "damaged",
    ["", "00", "ff" + PARENT[2:], PARENT[:40], PARENT.replace("0af", "xyz"), "00-" + "0" * 32 + PARENT[35:]],
)
def test_a_damaged_parent_begins_a_trace_of_its_own(damaged: str) -> None:
    taken = Spans()
    recorder = Recorder(OtlpExport(taken.take))
    recorder.start(Template("work", SpanKind.SERVER), damaged).end()
    recorder.flush()
    assert taken.all[0].parent_span_id == b""
    assert taken.all[0].trace_id.hex() != PARENT[3:35]


def test_a_share_of_traces_is_recorded() -> None:
    taken = Spans()
    recorder = Recorder(OtlpExport(taken.take), sampler=ParentBasedTraceIdRatio(0.25))
    for _ in range(2000):
        recorder.start(Template("work", SpanKind.SERVER)).end()
    recorder.flush()
    assert 350 < len(taken.all) < 650


def test_a_span_ends_once() -> None:
    taken = Spans()
    recorder = Recorder(OtlpExport(taken.take))
    span = recorder.start(Template("work", SpanKind.SERVER))
    span.end()
    span.end()
    recorder.flush()
    assert len(taken.all) == 1
    assert not span.is_recording()


def test_what_is_said_of_a_span_after_its_end_is_not_recorded() -> None:
    taken = Spans()
    recorder = Recorder(OtlpExport(taken.take))
    span = recorder.start(Template("work", SpanKind.SERVER))
    span.end()
    span.set_attribute("late", True)
    recorder.flush()
    assert not taken.all[0].attributes


def test_a_span_has_the_same_ids_whoever_asks_first() -> None:
    taken = Spans()
    recorder = Recorder(OtlpExport(taken.take))
    asked, exported = (recorder.start(Template("work", SpanKind.SERVER), PARENT) for _ in range(2))
    before = asked.get_span_context().span_id
    asked.end()
    exported.end()
    recorder.flush()
    assert [int.from_bytes(span.span_id, "big") for span in taken.all] == [
        before,
        exported.get_span_context().span_id,
    ]
    assert {span.trace_id.hex() for span in taken.all} == {PARENT[3:35]}


def test_a_child_belongs_to_a_parent_that_nobody_asked_for_its_ids() -> None:
    taken = Spans()
    recorder = Recorder(OtlpExport(taken.take))
    parent = recorder.start(Template("outer", SpanKind.SERVER), PARENT)
    recorder.start_child(Template("inner", SpanKind.CLIENT), parent).end()
    parent.end()
    recorder.flush()
    inner, outer = taken.all
    assert (inner.trace_id, inner.parent_span_id) == (outer.trace_id, outer.span_id)
    assert outer.parent_span_id.hex() == PARENT[36:52]


def test_a_batch_is_never_larger_than_a_receiver_takes() -> None:
    sizes: list[int] = []
    names: list[str] = []

    def take(request: ExportTraceServiceRequest) -> None:
        sizes.append(request.ByteSize())
        names.extend(span.name for span in request.resource_spans[0].scope_spans[0].spans)

    recorder = Recorder(OtlpExport(take))
    expected = [f"work {number}" for number in range(1200)]
    for name in expected:
        span = recorder.start(Template(name, SpanKind.SERVER, {"statement": "x" * 6000}))
        span.end()
    recorder.shutdown()
    assert sorted(names) == sorted(expected)
    assert len(sizes) > 1
    assert max(sizes) < 1 << 20


def test_the_oldest_spans_make_room_for_the_latest() -> None:
    taken = Spans()
    # Nothing is exported meanwhile.
    recorder = Recorder(OtlpExport(taken.take), batching=Batching(pause=60))
    template = Template("work", SpanKind.SERVER)
    first = recorder.start(template)
    first.end()
    first_id = first.get_span_context().span_id.to_bytes(8, "big")
    for _ in range(20_000):
        last = recorder.start(template)
        last.end()
    recorder.flush()
    found = {span.span_id for span in taken.all}
    assert first_id not in found
    assert last.get_span_context().span_id.to_bytes(8, "big") in found


def test_a_span_that_cannot_be_encoded_takes_no_other_with_it() -> None:
    taken = Spans()
    recorder = Recorder(OtlpExport(taken.take))
    for value in (1, 1 << 70, 2):
        span = recorder.start(Template("work", SpanKind.SERVER))
        span.set_attribute("count", value)
        span.end()
    recorder.shutdown()
    assert [span.attributes[0].value.int_value for span in taken.all] == [1, 2]


def test_spans_that_cannot_be_sent_are_dropped() -> None:
    def refuse(_: ExportTraceServiceRequest) -> None:
        raise ConnectionError

    recorder = Recorder(OtlpExport(refuse))
    recorder.start(Template("work", SpanKind.SERVER)).end()
    recorder.shutdown()


async def test_a_call_leaves_a_server_span_with_its_status(spans: Spans, certificate_directory: Any) -> None:
    async with running(certificate_directory) as stand:
        await method(stand.plain(), "Open")(Thing(), metadata=(("traceparent", PARENT),))
        stand.scratch.error = errors.NotFound("GONE", "It is gone.")
        with pytest.raises(grpc.aio.AioRpcError):
            await method(stand.plain(), "Fail")(Thing())
        stand.scratch.error = RuntimeError("secret")
        with pytest.raises(grpc.aio.AioRpcError):
            await method(stand.plain(), "Fail")(Thing())
    good, refused, broken = recorded(spans)
    assert (good.name, good.kind) == ("scratch.v1.ScratchService/Open", Span.SPAN_KIND_SERVER)
    assert good.trace_id.hex() == PARENT[3:35]
    assert attributes(good)["rpc.response.status_code"] == "OK"
    # A refusal is the caller's fault, and no error of the server.
    assert attributes(refused)["rpc.response.status_code"] == "NOT_FOUND"
    assert refused.status.code == Status.STATUS_CODE_UNSET
    assert attributes(broken)["rpc.response.status_code"] == "INTERNAL"
    assert broken.status.code == Status.STATUS_CODE_ERROR
    assert b"secret" not in broken.SerializeToString()


async def test_the_exporter_delivers_to_a_collector() -> None:
    received: asyncio.Queue[ExportTraceServiceRequest] = asyncio.Queue()

    async def export(request: ExportTraceServiceRequest, _context: Any) -> ExportTraceServiceResponse:
        received.put_nowait(request)
        return ExportTraceServiceResponse()

    server = grpc.aio.server()
    server.add_generic_rpc_handlers((collecting(export),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    send = exporter.Exporter(f"127.0.0.1:{port}", "", None)
    recorder = Recorder(OtlpExport(send, {"service.name": "scratch"}))
    recorder.start(Template("work", SpanKind.SERVER)).end()
    request = await asyncio.wait_for(received.get(), 10)
    await asyncio.to_thread(recorder.shutdown)
    await server.stop(None)
    assert request.resource_spans[0].resource.attributes[0].value.string_value == "scratch"
    assert request.resource_spans[0].scope_spans[0].spans[0].name == "work"


async def test_the_exporter_takes_renewed_certificates(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chassis.trust.certificates._CHECK_SECONDS", 0.0)
    received: list[ExportTraceServiceRequest] = []

    async def export(request: ExportTraceServiceRequest, _context: Any) -> ExportTraceServiceResponse:
        received.append(request)
        return ExportTraceServiceResponse()

    for name in ("collector", "scratch"):
        (tmp_path / name).mkdir()
    authority = certificates.issue(tmp_path / "collector", "collector")
    certificates.issue(tmp_path / "scratch", "scratch")  # by another one, whom the collector does not know
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((collecting(export),))
    identity = Certificates(tmp_path / "collector", "collector").server_credentials()
    port = server.add_secure_port("127.0.0.1:0", identity)
    await server.start()
    known = Certificates(tmp_path / "scratch", "scratch")
    certificates.issue(tmp_path / "scratch", "scratch")  # renewed before anything was sent, and still unknown
    async with Proxy.before("127.0.0.1", port) as proxy:
        send = exporter.Exporter(f"127.0.0.1:{proxy.port}", "collector", known)
        with pytest.raises(grpc.RpcError):
            await asyncio.to_thread(send, ExportTraceServiceRequest())
        authority.issue(tmp_path / "scratch", "scratch")
        await asyncio.to_thread(send, ExportTraceServiceRequest())
        connections = proxy.accepted
        await asyncio.to_thread(send, ExportTraceServiceRequest())
        assert proxy.accepted == connections
    await server.stop(None)
    assert len(received) == 2


def collecting(export: Any) -> grpc.GenericRpcHandler:
    """The service of a collector of spans."""
    handler: Any = grpc.unary_unary_rpc_method_handler(
        export, ExportTraceServiceRequest.FromString, ExportTraceServiceResponse.SerializeToString
    )
    name = "opentelemetry.proto.collector.trace.v1.TraceService"
    return grpc.method_handlers_generic_handler(name, {"Export": handler})


def test_the_api_of_opentelemetry_records_too(spans: Spans) -> None:
    tracer = tracing.recorder().get_tracer("anything")
    with tracer.start_as_current_span("outer") as outer:
        inner = tracer.start_span("inner")
        inner.end()
        assert trace.get_current_span() is outer
    first, second = recorded(spans)
    assert (first.name, second.name) == ("inner", "outer")
    assert first.parent_span_id == second.span_id
