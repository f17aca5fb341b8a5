"""What a search finds, and which products match best. The words of a product are in two columns that PostgreSQL
generates: `name_words` (name and SKU) and `all_words` (also the description), each word as written and as its stem.
"""

import re
from typing import Any

from sqlalchemy import ColumnElement, Text, bindparam, column, func, literal_column
from sqlalchemy.dialects.postgresql import TSVECTOR

_NAME_WORDS, _ALL_WORDS = column("name_words", TSVECTOR), column("all_words", TSVECTOR)
# English stemming without stop words; a migration defines it.
_WORDS: ColumnElement[str] = literal_column("'product_words'::regconfig")


def _text(name: str) -> ColumnElement[str]:
    return bindparam(name, type_=Text)


_AS_TYPED = func.websearch_to_tsquery(_WORDS, _text("search"))
# The last word may be incomplete. A prefix includes the whole word, so it replaces it: the planner would treat `heart`
# and `heart…` as two conditions.
_FOUND = func.websearch_to_tsquery(_WORDS, _text("operators")).op("||")(
    func.to_tsquery(_WORDS, _text("unfinished"))
)

FOUND: ColumnElement[bool] = _ALL_WORDS.op("@@")(_FOUND)
# A word with a minus is excluded from all columns.
WITHOUT: ColumnElement[bool] = _ALL_WORDS.op("@@")(_AS_TYPED)
# First the names that have the words, then the names that have them with the last word incomplete.
RANKS: tuple[ColumnElement[bool], ...] = (_NAME_WORDS.op("@@")(_AS_TYPED), _NAME_WORDS.op("@@")(_FOUND))


def filters(typed: str) -> dict[str, Any]:
    """Returns the filters of a search, with their values.

    A search with operators (quotes, a minus, `or`) has no incomplete word to complete.
    """
    words = re.findall(r"[^\W_]+", typed)
    excludes = bool(re.search(r"(^|\s)-", typed))
    operators = excludes or '"' in typed or re.search(r"\bor\b", typed, re.IGNORECASE)
    unfinished = ""
    if words and not operators and typed[-1].isalnum():
        unfinished = " & ".join(words) + ":*"
    # A decimal or an address is one word to PostgreSQL, but several words here.
    plain = unfinished and re.fullmatch(r"[\w\s]*", typed) and "_" not in typed
    found = {"search": typed, "operators": "" if plain else typed, "unfinished": unfinished}
    return {"search": found} | ({"without": {}} if excludes else {})
