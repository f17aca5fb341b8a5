"""What `meshctl logs` makes of log files."""

import json
import time
from pathlib import Path

import pytest

from meshctl.core.failure import OperatorError
from meshctl.inspect import logs
from meshctl.inspect.log_lines import LogFile

TRACE = "a" * 32


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    def line(second: int, **fields: object) -> str:
        return json.dumps({"time": f"2026-11-22T10:00:{second:02}+00:00", **fields}) + "\n"

    (tmp_path / "logs").mkdir()
    catalog = line(1, level="info", message="Serving") + line(
        5, level="error", message="Lost", trace_id=TRACE, n=3
    )
    (tmp_path / "logs/catalog-1.log").write_text(catalog)
    (tmp_path / "logs/edge.log").write_text(
        line(4, method="GET", path="/v1/products", status=503, duration_ms=7, trace_id=TRACE)
    )
    (tmp_path / "logs/postgres.log").write_text("2026-11-22 10:00:03.500 UTC [17] LOG:  ready\n\n")
    (tmp_path / "logs/postgres.log.1").write_text("old\n")
    return tmp_path


def shown(folder: Path, capsys: pytest.CaptureFixture[str], **options: object) -> list[str]:
    defaults = {"service": "", "follow": False, "trace": "", "lines": 50, "as_json": False}
    logs.logs(**{**defaults, **options}, data=folder)  # type: ignore[arg-type]
    return capsys.readouterr().out.splitlines()


def test_the_lines_of_all_processes_are_in_the_order_of_time(
    folder: Path, capsys: pytest.CaptureFixture[str]
):
    lines = shown(folder, capsys)
    assert [line.split()[1] for line in lines] == ["catalog-1", "postgres", "edge", "catalog-1"]
    assert lines[1].endswith("[17] LOG:  ready")
    assert lines[2].endswith(f"error   GET /v1/products 503 in 7 ms {TRACE}")
    assert lines[3].endswith(f"error   Lost n=3 {TRACE}")


def test_a_service_a_trace_and_the_latest_lines_can_be_chosen(
    folder: Path, capsys: pytest.CaptureFixture[str]
):
    assert [line.split()[1] for line in shown(folder, capsys, service="catalog")] == ["catalog-1"] * 2
    assert [line.split()[1] for line in shown(folder, capsys, trace=TRACE.upper())] == ["edge", "catalog-1"]
    assert len(shown(folder, capsys, lines=1)) == 1
    assert shown(folder, capsys, lines=0) == []


def test_json_has_all_fields_and_the_process(folder: Path, capsys: pytest.CaptureFixture[str]):
    lines = [json.loads(line) for line in shown(folder, capsys, as_json=True)]
    assert (lines[2]["process"], lines[2]["status"]) == ("edge", 503)
    assert lines[1]["message"].startswith("2026-11-22 10:00:03.500 UTC")


def test_an_unknown_service_gets_a_suggestion(folder: Path, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(
        OperatorError, match=r"^There is no log of 'catlog': did you mean catalog or catalog-1\?$"
    ):
        shown(folder, capsys, service="catlog")


def test_without_logs_it_says_how_to_get_some(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(OperatorError, match=r"^There are no logs in .*: start a mesh"):
        shown(tmp_path, capsys)


def test_following_shows_what_comes_until_ctrl_c(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    looks = 0

    def look(_: float) -> None:
        nonlocal looks
        looks += 1
        if looks == 2:
            raise KeyboardInterrupt
        with (folder / "logs/edge.log").open("a") as file:
            file.write("critical\nhalf a li")

    monkeypatch.setattr(time, "sleep", look)
    assert [line.split()[-1] for line in shown(folder, capsys, lines=0, follow=True)] == ["critical"]


def test_a_log_that_was_rotated_is_read_from_its_beginning(tmp_path: Path):
    path = tmp_path / "nats.log"
    path.write_text("first\nsecond\n")
    log = LogFile(path, most_bytes=9)
    assert [line.text for line in log.read()] == ["second"]
    path.rename(tmp_path / "nats.log.1")
    path.write_text("third, which is longer\n")
    assert [line.text for line in log.read()] == ["third, which is longer"]
