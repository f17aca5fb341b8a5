"""Logs: of limited size, without a lost line, and never in the way of who writes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from meshctl.mesh import logs
from meshctl.mesh.logs import Log
from tests.disks import fill

LINES = 20_000


def test_no_line_is_lost_and_none_is_cut_while_a_program_writes_and_the_log_rotates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = f"for number in range({LINES}): print(number, '.' * 60)"
    size = 70 * LINES
    monkeypatch.setattr(logs, "LOG_BYTES", int(size * 0.7))
    log = Log(tmp_path / "catalog.log")
    reader, writer = os.pipe()
    follower = log.follow(reader)
    subprocess.run([sys.executable, "-c", code], stdout=writer, check=True)
    os.close(writer)
    follower.join(10)

    kept = [(tmp_path / name).read_text().splitlines() for name in ("catalog.log.1", "catalog.log")]
    assert all(kept)
    assert [line.split()[0] for part in kept for line in part] == [str(number) for number in range(LINES)]
    assert follower.last_words.splitlines()[-1].startswith(str(LINES - 1))


def test_a_log_stays_below_twice_its_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "LOG_BYTES", 1000)
    log = Log(tmp_path / "catalog.log")
    for number in range(1000):
        log.write(b"line %d\n" % number)
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= 2000
    assert (tmp_path / "catalog.log").read_text().endswith("line 999\n")


def test_a_full_disk_stops_nobody_and_the_log_says_what_is_lost(small_disk: Path) -> None:
    log = Log(small_disk / "catalog.log")
    filler = fill(small_disk)
    lines = b"." * 9999 + b"\n"
    log.write(lines)
    filler.unlink()
    log.write(b"There is space again.\n")
    text = log.path.read_text()
    assert f"({len(lines)} bytes of this log are lost: the disk was full)\n" in text
    assert text.endswith("\nThere is space again.\n")


def test_the_output_of_the_supervisor_itself_begins_anew_when_it_is_full(tmp_path: Path) -> None:
    log = tmp_path / "mesh.log"
    code = (
        "import sys; from pathlib import Path; from meshctl.mesh import logs; logs.LOG_BYTES = 10\n"
        "log = Path(sys.argv[1]); logs.redirect_output(log)\n"
        "for number in range(3): print('line', number, '.' * 10, flush=True); logs.shorten_output(log)"
    )
    subprocess.run([sys.executable, "-c", code, log], check=True)
    assert log.read_text() == ""
    assert logs.older(log).read_text().startswith("line 2 ")
