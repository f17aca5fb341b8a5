"""OpenTelemetry's SDK behind the fast span: its variables hold, and its exporters are fed."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from opentelemetry import propagate, trace
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, Decision, Sampler, SamplingResult
from opentelemetry.trace import Link, SpanContext, SpanKind

from chassis.core import Settings
from chassis.observe import ExporterError, OtlpExport, Recorder, SdkExport, Template, exporter, tracing
from tests.unit.chassis.stand import Spans

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
UNSAMPLED = PARENT[:-1] + "0"
WORK = Template("work", SpanKind.SERVER, {"rpc.system.name": "grpc"})


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The process's recorder afterwards is the one of before."""
    before = tracing.recorder()
    for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_TRACES_EXPORTER", "OTEL_TRACES_SAMPLER"):
        monkeypatch.delenv(name, raising=False)
    yield
    tracing.install(before)


@asynccontextmanager
async def collector() -> AsyncIterator[tuple[int, "asyncio.Queue[ExportTraceServiceRequest]"]]:
    """A receiver of OTLP: its port, and what it received."""
    received: asyncio.Queue[ExportTraceServiceRequest] = asyncio.Queue()

    async def export(request: ExportTraceServiceRequest, _context: Any) -> ExportTraceServiceResponse:
        received.put_nowait(request)
        return ExportTraceServiceResponse()

    handler: Any = grpc.unary_unary_rpc_method_handler(
        export, ExportTraceServiceRequest.FromString, ExportTraceServiceResponse.SerializeToString
    )
    name = "opentelemetry.proto.collector.trace.v1.TraceService"
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, {"Export": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield port, received
    finally:
        await server.stop(None)


def settings(port: int = 0, **values: Any) -> Settings:
    endpoint = f"127.0.0.1:{port}" if port else ""
    return Settings(service="scratch", otlp_endpoint=endpoint, otlp_server_name="", **values)


async def first_request(port: int, received: Any, **values: Any) -> ExportTraceServiceRequest:
    """What is exported of one span."""
    recorder = exporter.set_up(settings(port, **values), None)
    recorder.start(WORK).end()
    await asyncio.to_thread(recorder.shutdown)
    request: ExportTraceServiceRequest = received.get_nowait()
    return request


def test_an_exporter_of_the_sdk_gets_all_that_was_said_of_a_span() -> None:
    memory, wire = InMemorySpanExporter(), Spans()
    recorder = Recorder(SdkExport(memory, Resource({"service.name": "scratch"})), OtlpExport(wire.take, {}))
    link = Link(SpanContext(1, 2, is_remote=True), {"of": "another"})
    outer = recorder.start(WORK, PARENT)
    inner = recorder.start_span("inner", trace.set_span_in_context(outer), attributes={"a": 1}, links=[link])
    inner.set_attribute("b", "two")
    inner.add_event("noticed", {"what": "c"})
    inner.set_status(trace.StatusCode.ERROR, "ValueError")
    inner.end()
    outer.end()
    recorder.flush()
    one, other = memory.get_finished_spans()
    assert (one.name, other.name) == ("inner", "work")
    assert dict(one.attributes or {}) == {"a": 1, "b": "two"}
    assert dict(other.attributes or {}) == {"rpc.system.name": "grpc"}
    assert (one.events[0].name, dict(one.events[0].attributes or {})) == ("noticed", {"what": "c"})
    assert one.links == (link,)
    assert (one.status.status_code, one.status.description) == (trace.StatusCode.ERROR, "ValueError")
    assert one.parent == other.get_span_context()
    assert other.parent is not None
    assert (f"{other.parent.trace_id:032x}", other.parent.is_remote) == (PARENT[3:35], True)
    assert one.resource.attributes["service.name"] == "scratch"
    # Both ways out tell the same.
    for span, sent in zip((one, other), wire.all, strict=True):
        context = span.get_span_context()
        assert context is not None
        assert context.span_id.to_bytes(8, "big") == sent.span_id
        assert (span.start_time, span.end_time) == (sent.start_time_unix_nano, sent.end_time_unix_nano)


async def test_the_resource_of_the_environment_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        "OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test,service.instance.id=seven"
    )
    async with collector() as (port, received):
        request = await first_request(port, received)
        monkeypatch.setenv("OTEL_SERVICE_NAME", "renamed")
        renamed = await first_request(port, received)
    attributes, later = (
        {item.key: item.value.string_value for item in found.resource_spans[0].resource.attributes}
        for found in (request, renamed)
    )
    assert attributes["service.name"] == "scratch"
    assert attributes["service.instance.id"] == "seven"
    assert attributes["deployment.environment.name"] == "test"
    assert attributes["telemetry.sdk.language"] == "python"
    assert later["service.name"] == "renamed"


async def test_an_endpoint_of_the_environment_gets_the_spans_by_the_sdk_s_exporter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with collector() as (ours, here), collector() as (theirs, there):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{theirs}")
        await first_request(ours, here)
        span = there.get_nowait().resource_spans[0].scope_spans[0].spans[0]
    assert span.name == "work"
    assert span.attributes[0].key == "rpc.system.name"


@pytest.mark.parametrize(
    ("sampler", "argument", "root", "below_sampled", "below_unsampled"),
    [
        ("always_on", "", True, True, True),
        ("always_off", "", False, False, False),
        ("parentbased_always_off", "", False, True, False),
        ("parentbased_traceidratio", "0", False, True, False),
        ("traceidratio", "0", False, False, False),
    ],
)
def test_the_sampler_of_the_environment_decides(
    monkeypatch: pytest.MonkeyPatch,
    sampler: str,
    argument: str,
    root: bool,
    below_sampled: bool,
    below_unsampled: bool,
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", sampler)
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", argument)
    recorder = exporter.set_up(settings(port=1), None)
    spans = [recorder.start(WORK, parent) for parent in ("", PARENT, UNSAMPLED)]
    assert [span.is_recording() for span in spans] == [root, below_sampled, below_unsampled]
    # What is called next is told the decision.
    assert spans[0].get_span_context().trace_flags.sampled is root


class NoWork(Sampler):
    """Wants all spans but those of one name."""

    def __init__(self) -> None:
        self.parents: list[SpanContext] = []

    def should_sample(self, parent_context: Any, trace_id: int, name: str, *_: Any, **__: Any) -> Any:
        self.parents.append(trace.get_current_span(parent_context).get_span_context())
        return SamplingResult(Decision.DROP if name == "work" else Decision.RECORD_AND_SAMPLE)

    def get_description(self) -> str:
        return "NoWork"


def test_a_sampler_that_follows_no_parent_is_asked_about_each_span() -> None:
    sampler = NoWork()
    recorder = Recorder(OtlpExport(Spans().take), sampler=sampler)
    outer = recorder.start(Template("outer", SpanKind.SERVER), UNSAMPLED)
    assert outer.is_recording()
    (parent,) = sampler.parents
    assert (f"{parent.span_id:016x}", parent.is_remote) == (UNSAMPLED[36:52], True)
    assert not recorder.start_child(WORK, outer).is_recording()
    assert recorder.start_child(Template("inner", SpanKind.CLIENT), outer).is_recording()


def test_a_span_that_is_received_begins_no_trace_whatever_the_sampler_says() -> None:
    recorder = Recorder(OtlpExport(Spans().take))
    assert not recorder.join(WORK).is_recording()
    assert recorder.join(WORK, PARENT).is_recording()
    assert not Recorder(OtlpExport(Spans().take), sampler=ALWAYS_OFF).join(WORK, PARENT).is_recording()


def test_limits_of_the_environment_hold_for_the_sdk_s_exporters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "2")
    monkeypatch.setenv("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "5")
    memory = InMemorySpanExporter()
    recorder = Recorder(SdkExport(memory, Resource({})))
    recorder.start(Template("work", SpanKind.SERVER, {"a": "1", "b": "2", "c": "much too long"})).end()
    recorder.flush()
    (span,) = memory.get_finished_spans()
    assert len(span.attributes or {}) == 2
    assert (span.attributes or {})["c"] == "much "


async def test_a_disabled_sdk_exports_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    async with collector() as (port, received):
        recorder = exporter.set_up(settings(port), None)
        recorder.start(WORK, PARENT).end()
        await asyncio.to_thread(recorder.shutdown)
        assert received.empty()
    # The trace goes on all the same.
    assert recorder.start(WORK, PARENT).get_span_context().trace_flags.sampled
    assert propagate.get_global_textmap().fields


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("OTEL_TRACES_EXPORTER", "carrier_pigeon", "carrier_pigeon"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "many", "OTEL_BSP_MAX_QUEUE_SIZE is not a whole number"),
    ],
)
def test_what_the_environment_asks_for_and_cannot_have_is_said(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, sentence: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ExporterError, match=sentence):
        exporter.set_up(settings(), None)


def test_batches_are_as_the_environment_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "60000")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "3")
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "console")
    sizes: list[int] = []
    monkeypatch.setattr(SdkExport, "__call__", lambda _, spans: sizes.append(len(spans)))
    recorder = exporter.set_up(settings(), None)
    for _ in range(7):
        recorder.start(WORK).end()
    recorder.flush()
    assert sizes == [3, 3, 1]
