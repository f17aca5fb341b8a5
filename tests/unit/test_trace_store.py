"""The observer's window of spans, and the tree that `meshctl trace` draws."""

import io

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span, Status
from rich.console import Console

from meshctl.inspect.trace_tree import draw
from services.observer import convert
from services.observer.store import StoredTrace, TraceStore

MILLISECOND = 1_000_000


def span(trace: int, number: int, parent: int = 0, name: str = "work", start: int = 0, end: int = 1) -> Span:
    return Span(
        trace_id=trace.to_bytes(16, "big"),
        span_id=number.to_bytes(8, "big"),
        parent_span_id=parent.to_bytes(8, "big") if parent else b"",
        name=name,
        start_time_unix_nano=start * MILLISECOND + 1,
        end_time_unix_nano=end * MILLISECOND + 1,
    )


def export(service: str, *spans: Span) -> ExportTraceServiceRequest:
    resource = Resource(attributes=[KeyValue(key="service.name", value=AnyValue(string_value=service))])
    return ExportTraceServiceRequest(
        resource_spans=[ResourceSpans(resource=resource, scope_spans=[ScopeSpans(spans=spans)])]
    )


def store(max_spans: int = 100, max_spans_per_trace: int = 50, max_bytes: int = 1 << 20) -> TraceStore:
    return TraceStore(max_spans=max_spans, max_spans_per_trace=max_spans_per_trace, max_bytes=max_bytes)


def trace_id(number: int) -> str:
    return f"{number:032x}"


async def test_spans_of_several_services_make_one_trace() -> None:
    traces = store()
    traces.add(export("catalog", span(1, 2, parent=1, start=3, end=8)))
    traces.add(export("edge", span(1, 1, name="GET /v1/products", start=0, end=10)))
    await traces.catch_up()
    (trace,) = traces.newest_first()
    summary = convert.summary(trace)
    assert summary.name == "GET /v1/products"
    assert list(summary.services) == ["catalog", "edge"]
    assert summary.span_count == 2
    assert summary.duration_ms == 10.0


async def test_the_oldest_traces_make_room_for_new_ones() -> None:
    traces = store(max_spans=3)
    for number in range(1, 6):
        traces.add(export("catalog", span(number, number)))
    await traces.catch_up()
    assert [trace.trace_id for trace in traces.newest_first()] == [trace_id(5), trace_id(4), trace_id(3)]
    assert traces.span_count == 3


async def test_one_endless_trace_does_not_take_the_whole_window() -> None:
    traces = store(max_spans_per_trace=5)
    traces.add(export("catalog", *(span(1, number) for number in range(1, 21))))
    await traces.catch_up()
    (trace,) = traces.newest_first()
    assert len(trace.spans) == 5
    assert convert.trace_message(trace).dropped_spans == 15


async def test_an_exporters_retry_adds_nothing() -> None:
    traces = store()
    for _ in range(2):
        traces.add(export("catalog", span(1, 1)))
    await traces.catch_up()
    assert traces.span_count == 1


async def test_spans_without_valid_ids_belong_nowhere_and_harm_no_other() -> None:
    traces = store()
    broken = Span(trace_id=b"short", span_id=b"x", name="broken")
    traces.add(export("catalog", broken, span(1, 1)))
    await traces.catch_up()
    assert [trace.trace_id for trace in traces.newest_first()] == [trace_id(1)]
    assert traces.span_count == 1


async def test_spans_are_taken_apart_only_when_somebody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[str] = []

    def take(_: StoredTrace, service: str, __: Span) -> int:
        taken.append(service)
        return 0

    monkeypatch.setattr(StoredTrace, "add", take)
    traces = store()
    traces.add(export("catalog", span(1, 1)))
    assert not taken
    await traces.catch_up()
    assert taken == ["catalog"]


async def test_what_nobody_looks_at_is_bounded_too() -> None:
    traces = store(max_spans=3)
    for number in range(1, 6):
        traces.add(export("catalog", span(number, number)))
        assert traces.span_count <= 3
    await traces.catch_up()
    assert [trace.trace_id for trace in traces.newest_first()] == [trace_id(5), trace_id(4), trace_id(3)]


@pytest.mark.parametrize("looks", [False, True])
async def test_large_spans_are_kept_in_fewer_numbers(looks: bool) -> None:
    traces = store(max_bytes=10_000)
    for number in range(1, 21):
        traces.add(export("catalog", span(number, number, name="x" * 2000)))
        if looks:
            await traces.catch_up()
        assert traces.size <= 10_000
    await traces.catch_up()
    assert [trace.trace_id for trace in traces.newest_first()] == [trace_id(n) for n in (20, 19, 18, 17)]


async def test_nothing_is_left_behind_of_what_has_gone() -> None:
    traces = store(max_spans=2)
    for number in range(1, 50):
        traces.add(export("catalog", span(number, number)))
        await traces.catch_up()
    kept = sum(trace.size for trace in traces.newest_first())
    assert (traces.span_count, traces.size) == (2, kept)


async def test_an_error_is_seen_in_the_summary_and_in_the_span() -> None:
    traces = store()
    failed = span(1, 1)
    failed.status.CopyFrom(Status(code=Status.STATUS_CODE_ERROR, message="NOT_FOUND"))
    traces.add(export("catalog", failed))
    await traces.catch_up()
    (trace,) = traces.newest_first()
    assert convert.summary(trace).error_count == 1
    (drawn,) = convert.trace_message(trace).spans
    assert (drawn.error, drawn.error_message) == (True, "NOT_FOUND")


def drawn(traces: TraceStore) -> list[str]:
    found = traces.get(trace_id(1))
    assert found is not None
    console = Console(width=160, file=io.StringIO())
    with console.capture() as captured:
        console.print(draw(convert.trace_message(found)))
    return captured.get().splitlines()


async def test_the_tree_shows_each_hop_below_its_parent() -> None:
    traces = store()
    traces.add(export("edge", span(1, 1, name="POST /v1/orders", end=10)))
    traces.add(export("ordering", span(1, 2, parent=1, name="PlaceOrder", start=1, end=9)))
    traces.add(export("catalog", span(1, 3, parent=2, name="ReserveStock [all]", start=2, end=5)))
    await traces.catch_up()
    _, edge, ordering, catalog = drawn(traces)
    assert "POST /v1/orders" in edge
    assert "PlaceOrder" in ordering
    assert "ReserveStock [all]" in catalog
    branches = [line.index("──") for line in (edge, ordering, catalog)]
    assert branches == sorted(set(branches))


async def test_a_span_whose_parent_is_not_kept_stands_at_the_top() -> None:
    traces = store()
    traces.add(export("catalog", span(1, 3, parent=99, name="orphan")))
    await traces.catch_up()
    _, orphan = drawn(traces)
    assert "orphan" in orphan
