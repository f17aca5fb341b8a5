"""What a search finds, and what of it matches best. The words of a product stand in two columns that PostgreSQL
generates: `name_words` (name and SKU) and `all_words` (the description, too), each as it is written and as its stem.
"""

import re
from typing import Any

from sqlalchemy import ColumnElement, Text, bindparam, column, func, literal_column
from sqlalchemy.dialects.postgresql import TSVECTOR

_NAME_WORDS, _ALL_WORDS = column("name_words", TSVECTOR), column("all_words", TSVECTOR)
# English word forms, without stop words; a migration defines it.
_WORDS: ColumnElement[str] = literal_column("'product_words'::regconfig")


def _text(name: str) -> ColumnElement[str]:
    return bindparam(name, type_=Text)


_AS_TYPED = func.websearch_to_tsquery(_WORDS, _text("search"))
# What is typed last may be unfinished. Where that says all, it stands alone: the planner would take `heart` and
# `heart…` for two things.
_FOUND = func.websearch_to_tsquery(_WORDS, _text("operators")).op("||")(
    func.to_tsquery(_WORDS, _text("unfinished"))
)

FOUND: ColumnElement[bool] = _ALL_WORDS.op("@@")(_FOUND)
# What a minus excludes is excluded wherever it stands.
WITHOUT: ColumnElement[bool] = _ALL_WORDS.op("@@")(_AS_TYPED)
# First the names that have the words, then those that have them if the last word is unfinished.
RANKS: tuple[ColumnElement[bool], ...] = (_NAME_WORDS.op("@@")(_AS_TYPED), _NAME_WORDS.op("@@")(_FOUND))


def filters(typed: str) -> dict[str, Any]:
    """The filters of a search, with their values.

    Operators of a web search (quotes, a minus, `or`) leave no unfinished word to guess at.
    """
    words = re.findall(r"[^\W_]+", typed)
    excludes = bool(re.search(r"(^|\s)-", typed))
    operators = excludes or '"' in typed or re.search(r"\bor\b", typed, re.IGNORECASE)
    unfinished = ""
    if words and not operators and typed[-1].isalnum():
        unfinished = " & ".join(words) + ":*"
    # A decimal or an address is one word to PostgreSQL, and several to us.
    plain = unfinished and re.fullmatch(r"[\w\s]*", typed) and "_" not in typed
    found = {"search": typed, "operators": "" if plain else typed, "unfinished": unfinished}
    return {"search": found} | ({"without": {}} if excludes else {})
