"""Categories, products, their stock, what of it is reserved, and the ledger of its movements."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None

# The name weighs most, and the SKU as much, so that typing one finds its product first.
SEARCH = """
setweight(to_tsvector('english'::regconfig, name), 'A')
|| setweight(to_tsvector('simple'::regconfig, sku), 'A')
|| setweight(to_tsvector('english'::regconfig, description), 'C')
"""


def upgrade() -> None:
    create_categories()
    create_products()
    create_stock()
    create_reservations()
    create_reservation_lines()
    create_stock_movements()


def create_categories() -> None:
    op.create_table(
        "categories",
        sa.Column("id", sa.Uuid, primary_key=True),
        sa.Column("parent_id", sa.Uuid, sa.ForeignKey("categories.id")),
        sa.Column("slug", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("position", sa.BigInteger, nullable=False),
        # "C", so that LIKE 'prefix/%' uses the index of the constraint.
        sa.Column("path", sa.Text(collation="C"), nullable=False, unique=True),
        sa.Column("depth", sa.BigInteger, sa.CheckConstraint("depth BETWEEN 0 AND 7"), nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_index("categories_parent_id_idx", "categories", ["parent_id", "path"])


def create_products() -> None:
    op.create_table(
        "products",
        sa.Column("id", sa.Uuid, primary_key=True),
        sa.Column("sku", sa.Text, nullable=False, unique=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("description", sa.Text, nullable=False),
        sa.Column("category_id", sa.Uuid, sa.ForeignKey("categories.id")),
        sa.Column("currency_code", sa.Text, nullable=False),
        sa.Column("price_minor", sa.BigInteger, sa.CheckConstraint("price_minor > 0"), nullable=False),
        sa.Column(
            "status", sa.Text, sa.CheckConstraint("status IN ('draft', 'active', 'archived')"), nullable=False
        ),
        sa.Column("image_urls", postgresql.ARRAY(sa.Text), nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("search", postgresql.TSVECTOR, sa.Computed(SEARCH, persisted=True)),
    )
    op.create_index("products_category_id_idx", "products", ["category_id"])
    newest_first = [sa.text("created_at DESC"), sa.text("id DESC")]
    op.create_index("products_newest_idx", "products", newest_first)
    # What everybody lists: the page and its total come from the index alone.
    on_sale = sa.text("status = 'active'")
    op.create_index("products_on_sale_newest_idx", "products", newest_first, postgresql_where=on_sale)
    op.create_index("products_on_sale_price_idx", "products", ["price_minor", "id"], postgresql_where=on_sale)
    op.create_index("products_search_idx", "products", ["search"], postgresql_using="gin")


def create_stock() -> None:
    op.create_table(
        "stock",
        sa.Column("product_id", sa.Uuid, sa.ForeignKey("products.id"), primary_key=True),
        sa.Column("available", sa.BigInteger, sa.CheckConstraint("available >= 0"), nullable=False),
        sa.Column("reserved", sa.BigInteger, sa.CheckConstraint("reserved >= 0"), nullable=False),
        sa.Column("sold", sa.BigInteger, sa.CheckConstraint("sold >= 0"), nullable=False),
        sa.Column("received", sa.BigInteger, nullable=False),
        sa.CheckConstraint("available + reserved + sold = received", name="stock_balance_check"),
        sa.CheckConstraint("received <= 1000000000", name="stock_received_check"),
        # Rows change with every order and no index holds what changes: room on the page keeps updates in it (HOT).
        postgresql_with={"fillfactor": 50},
    )


def create_reservations() -> None:
    op.create_table(
        "reservations",
        sa.Column("order_id", sa.Uuid, primary_key=True),
        sa.Column(
            "status",
            sa.Text,
            sa.CheckConstraint("status IN ('held', 'committed', 'released')"),
            nullable=False,
        ),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
    )


def create_reservation_lines() -> None:
    op.create_table(
        "reservation_lines",
        sa.Column("order_id", sa.Uuid, sa.ForeignKey("reservations.order_id"), primary_key=True),
        sa.Column("product_id", sa.Uuid, sa.ForeignKey("products.id"), primary_key=True),
        sa.Column("quantity", sa.BigInteger, sa.CheckConstraint("quantity > 0"), nullable=False),
    )
    op.create_index("reservation_lines_product_id_idx", "reservation_lines", ["product_id"])


def create_stock_movements() -> None:
    op.create_table(
        "stock_movements",
        sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
        sa.Column("product_id", sa.Uuid, sa.ForeignKey("products.id"), nullable=False),
        sa.Column("order_id", sa.Uuid),
        sa.Column(
            "kind",
            sa.Text,
            sa.CheckConstraint("kind IN ('received', 'reserved', 'committed', 'released')"),
            nullable=False,
        ),
        sa.Column("quantity", sa.BigInteger, nullable=False),
        sa.Column("reason", sa.Text, nullable=False, server_default=""),
        sa.Column("actor_id", sa.Text, nullable=False, server_default=""),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
    )
    op.create_index("stock_movements_product_id_idx", "stock_movements", ["product_id", "id"])
