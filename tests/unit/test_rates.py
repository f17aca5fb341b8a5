"""What `meshctl top` makes of two looks at the metrics."""

import pytest

from meshctl.inspect.rates import Counts, counts, percentile, rates
from meshctl.inspect.scrape import Sample

RPC = {"grpc_service": "protomesh.catalog.v1.ProductService", "grpc_method": "ListProducts"}
KEY = ("catalog", RPC["grpc_service"], RPC["grpc_method"])


def look(ok: float, failed: float, running: float = 0) -> list[Sample]:
    """The samples of two workers that share the work."""
    worker = [
        Sample("catalog", "grpc_server_handled_total", {**RPC, "grpc_code": "OK"}, ok / 2),
        Sample("catalog", "grpc_server_handled_total", {**RPC, "grpc_code": "INTERNAL"}, failed / 2),
        Sample("catalog", "grpc_server_handling_seconds_bucket", {**RPC, "le": "0.01"}, ok / 2),
        Sample("catalog", "grpc_server_handling_seconds_bucket", {**RPC, "le": "+Inf"}, (ok + failed) / 2),
        Sample("catalog", "grpc_server_in_flight", RPC, running / 2),
        Sample("catalog", "grpc_client_handled_total", {**RPC, "grpc_code": "OK"}, 1000),
        Sample("catalog", "outbox_lag_seconds", {"database": "catalog"}, 3),
    ]
    return worker * 2


def test_workers_are_added_up_and_only_the_interval_counts():
    (rate,) = rates(counts(look(100, 10)), counts(look(130, 20, running=4)), seconds=2.0)
    assert (rate.service, rate.rpc) == ("catalog", "ProductService/ListProducts")
    assert (rate.rate, rate.errors, rate.in_flight) == (20.0, 0.25, 4)
    assert rate.p50 == pytest.approx(20 / 30 * 10)
    assert rate.p95 == 10.0


def test_an_rpc_that_rests_is_left_out():
    assert rates(counts(look(100, 10)), counts(look(100, 10)), seconds=2.0) == []


def test_a_process_that_started_again_counts_from_zero():
    (rate,) = rates(counts(look(1000, 0)), counts(look(10, 0)), seconds=2.0)
    assert rate.rate == 5.0


def test_without_calls_there_is_no_percentile():
    assert percentile({}, 0.5) is None
    assert percentile({0.1: 0.0, float("inf"): 0.0}, 0.5) is None
    assert counts([])[KEY] == Counts()
