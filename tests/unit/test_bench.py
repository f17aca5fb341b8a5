"""What the bench prints: goals beside figures, CPU by kind of process, and who is left out."""

import pytest
from rich.console import Console

from bench import cpu
from bench.goals import GOALS, Goal
from bench.peers import running
from bench.report import Figure, Report


def test_cpu_of_all_workers_of_a_service_counts_as_the_services() -> None:
    before = {"catalog-1": 1.0, "catalog-2": 2.0, "Envoy": 0.0, "NATS": 5.0}
    after = {"catalog-1": 1.3, "catalog-2": 2.2, "Envoy": 0.1, "NATS": 5.0}
    spent = cpu.per_request(before, after, requests=1000)
    assert cpu.median([spent]) == {"catalog": 500.0, "Envoy": 100.0}


def test_a_goal_is_printed_beside_what_the_run_reached(capsys: pytest.CaptureFixture[str]) -> None:
    goal = next(goal for goal in GOALS if goal.against.endswith("Fastify"))
    report = Report()
    report.add(Figure(goal.figure, 100.0), against={goal.against: 0.1})
    report.show(Console(width=200))
    [line] = [line for line in capsys.readouterr().out.splitlines() if str(goal) in line]
    assert "0.10" in line
    assert "missed" in line


@pytest.mark.parametrize(
    ("goal", "good", "bad"),
    [
        (Goal("reads", at_least=300), 300.0, 299.9),
        (Goal("reads: edge", at_least=0.8, against="reads: peer"), 0.9, 0.7),
        (Goal("search", at_most_ms=20), 19.9, 20.0),
    ],
)
def test_a_goal_is_met_by_what_is_good_enough(goal: Goal, good: float, bad: float) -> None:
    assert goal.met_by(good)
    assert not goal.met_by(bad)


def test_without_node_the_bench_says_that_fastify_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert running.why_no_fastify() == "Fastify is left out: Node.js is not installed."
