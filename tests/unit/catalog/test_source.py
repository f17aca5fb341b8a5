"""Files as they come: quotes, encodings, delimiters, and reading on from the middle."""

import json
from pathlib import Path

import pytest

from services.catalog.importing.failure import ImportFailed
from services.catalog.importing.source import LONGEST_FIELD, Source


def _source(folder: Path, content: bytes, name: str = "things.csv") -> Source:
    (folder / name).write_bytes(content)
    return Source(folder / name)


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_delimiter_is_what_the_header_uses(tmp_path: Path, delimiter: str):
    source = _source(tmp_path, f"a{delimiter}b\r\n1{delimiter}2\r\n".encode())
    assert source.columns == ["a", "b"]
    assert [record.values for record in source.records()] == [{"a": "1", "b": "2"}]


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path: Path):
    assert _source(tmp_path, "\ufeffa,b\n".encode()).columns == ["a", "b"]


def test_every_record_can_be_read_on_from(tmp_path: Path):
    lines = ["a,b", "1,x", '2,"two', 'lines, ""quoted"""', "", "3,ä€🎈", "4"]
    source = _source(tmp_path, "\n".join(lines).encode())
    records = list(source.records())
    assert [(record.line, record.last_line) for record in records] == [(2, 2), (3, 4), (6, 6), (7, 7)]
    assert records[1].values["b"] == 'two\nlines, "quoted"'
    for index, record in enumerate(records):
        assert list(source.records(record.end, record.last_line)) == records[index + 1 :]


def test_only_the_record_that_is_not_utf_8_is_unreadable(tmp_path: Path):
    records = list(_source(tmp_path, b"a,b\n1,\xe4\n2,ok\n").records())
    assert [record.problem for record in records] == ["is not UTF-8", ""]


def test_a_quote_that_is_never_closed_does_not_swallow_the_file(tmp_path: Path):
    filler = b"1,x\n" * (LONGEST_FIELD // 2)
    source = _source(tmp_path, b'a,b\n1,"open\n' + filler)
    records = list(source.records())
    assert records[0].problem.startswith("not CSV")
    assert any(record.values == {"a": "1", "b": "x"} for record in records[1:])


def test_json_lines_that_are_no_objects_are_unreadable(tmp_path: Path):
    lines = [json.dumps({"a": 1}), "", "[1]", "{", "null", "[" * 100_000, '{"a": "\xff"}']
    source = _source(tmp_path, "\n".join(lines).encode("latin-1"), "things.jsonl")
    records = list(source.records())
    assert [(record.line, bool(record.problem)) for record in records] == [
        (1, False),
        (3, True),
        (4, True),
        (5, True),
        (6, True),
        (7, True),
    ]
    assert source.columns == ["a"]


@pytest.mark.parametrize(
    ("content", "sentence"), [(b"", "no header"), (b"\n1,2\n", "no header"), (b"a,a\n", "twice")]
)
def test_a_header_that_names_no_columns_is_refused(tmp_path: Path, content: bytes, sentence: str):
    with pytest.raises(ImportFailed, match=sentence):
        _source(tmp_path, content)


def test_a_file_that_is_not_there_is_said_so(tmp_path: Path):
    with pytest.raises(ImportFailed, match="cannot be read"):
        Source(tmp_path / "none.csv")
