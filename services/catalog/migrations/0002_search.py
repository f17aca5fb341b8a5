"""A search finds every word that a product has, and what it finds most of, it finds in order."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

# English word forms, without stop words: somebody who looks for "The" or "It" means it.
STEMMED, AS_WRITTEN = "'product_words'::regconfig", "'simple'::regconfig"
# Hyphens and dots tie a SKU together for the parser; its parts are looked for as well.
SKU_PARTS = "translate(sku, './_-', '    ')"
# Words as they are written serve a word that is unfinished: `hangin` begins no stem.
NAME_WORDS = (
    f"to_tsvector({STEMMED}, name) || to_tsvector({AS_WRITTEN}, name || ' ' || sku || ' ' || {SKU_PARTS})"
)
DESCRIPTION_WORDS = f"to_tsvector({STEMMED}, description) || to_tsvector({AS_WRITTEN}, description)"


def upgrade() -> None:
    op.execute("CREATE TEXT SEARCH DICTIONARY product_words (TEMPLATE = snowball, LANGUAGE = english)")
    op.execute("CREATE TEXT SEARCH CONFIGURATION product_words (COPY = english)")
    op.execute(
        "ALTER TEXT SEARCH CONFIGURATION product_words ALTER MAPPING REPLACE english_stem WITH product_words"
    )
    op.drop_column("products", "search")
    add_words("name_words", NAME_WORDS)
    add_words("all_words", f"{NAME_WORDS} || {DESCRIPTION_WORDS}")
    op.drop_index("products_on_sale_price_idx")
    op.create_index(
        "products_on_sale_price_idx",
        "products",
        ["currency_code", "price_minor", "id"],
        postgresql_where=sa.text("status = 'active'"),
    )


def add_words(name: str, expression: str) -> None:
    op.execute(f"ALTER TABLE products ADD COLUMN {name} tsvector GENERATED ALWAYS AS ({expression}) STORED")
    op.create_index(f"products_{name}_idx", "products", [name], postgresql_using="gin")
