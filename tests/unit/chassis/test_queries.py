"""Statements that are compiled once: what they bind, what they fill in, what they refuse."""

import enum
from typing import Any

import pytest
from sqlalchemy import Column, Enum, Integer, MetaData, String, Table, bindparam, insert, select

from chassis.data import Prepared, Query, containing


class Colour(enum.Enum):
    RED = 1


TABLE = Table(
    "things",
    MetaData(),
    Column("id", Integer),
    Column("colour", Enum(Colour)),
    Column("size", String, default="small"),
    Column("made", Integer, default=lambda: 1),
)


def test_values_are_bound_as_their_columns_hold_them() -> None:
    query = Query(select(TABLE.c.id).where(TABLE.c.colour == bindparam("colour"), TABLE.c.size == "large"))
    assert query.takes("colour")
    assert sorted(query.values({"colour": Colour.RED})) == ["RED", "large"]


def test_a_column_that_an_insert_omits_gets_its_default() -> None:
    values = insert(TABLE).values(id=bindparam("id"), made=bindparam("made"))
    assert sorted(Prepared(values).values({"id": 1, "made": 2}), key=str) == [1, 2, "small"]


@pytest.mark.parametrize(
    ("statement", "sentence"),
    [
        (select(TABLE.c.id).where(TABLE.c.id.in_([1, 2])), "text depends on its values"),
        (insert(TABLE).values(id=1), "default is not a constant"),
    ],
)
def test_a_statement_that_cannot_be_prepared_is_refused(statement: Any, sentence: str) -> None:
    with pytest.raises(TypeError, match=sentence):
        Prepared(statement)


@pytest.mark.parametrize(("text", "pattern"), [("", ""), ("tea", "%tea%"), ("5%_\\", "%5\\%\\_\\\\%")])
def test_a_text_to_look_for_stands_for_itself(text: str, pattern: str) -> None:
    assert containing(text) == pattern
