"""Orders, their items and history, and the sagas of orders in progress."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None

STATUSES = "status IN ('placing', 'pending_payment', 'rejected', 'cancelled')"
# Notifies the watchers of an order when a change is committed, whichever process made it.
NOTIFY = """
CREATE FUNCTION notify_order_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('order_changed', NEW.id::text);
    RETURN NULL;
END $$
"""
NOTIFY_TRIGGER = """
CREATE TRIGGER order_changed AFTER UPDATE OF status ON orders
FOR EACH ROW EXECUTE FUNCTION notify_order_changed()
"""


def upgrade() -> None:
    create_orders()
    create_order_items()
    create_order_transitions()
    create_sagas()
    op.execute(NOTIFY)
    op.execute(NOTIFY_TRIGGER)


def create_orders() -> None:
    op.create_table(
        "orders",
        sa.Column("id", sa.Uuid, primary_key=True),
        sa.Column("buyer_id", sa.Uuid, nullable=False),
        sa.Column("status", sa.Text, sa.CheckConstraint(STATUSES), nullable=False),
        sa.Column("currency_code", sa.Text, nullable=False),
        sa.Column("total_minor", sa.BigInteger, sa.CheckConstraint("total_minor >= 0"), nullable=False),
        sa.Column("shipping_note", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("rejection", postgresql.JSONB),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
    )
    newest_first = [sa.text("created_at DESC"), sa.text("id DESC")]
    op.create_index("orders_created_at_idx", "orders", newest_first)
    op.create_index("orders_buyer_id_idx", "orders", ["buyer_id", *newest_first])
    op.create_index("orders_status_idx", "orders", ["status", *newest_first])


def create_order_items() -> None:
    op.create_table(
        "order_items",
        sa.Column("order_id", sa.Uuid, sa.ForeignKey("orders.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("position", sa.Integer, primary_key=True),
        sa.Column("product_id", sa.Uuid, nullable=False),
        sa.Column("sku", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("quantity", sa.Integer, sa.CheckConstraint("quantity > 0"), nullable=False),
        sa.Column(
            "unit_price_minor",
            sa.BigInteger,
            sa.CheckConstraint("unit_price_minor >= 0"),
            nullable=False,
        ),
        sa.UniqueConstraint("order_id", "product_id"),
    )
    op.create_index("order_items_product_id_idx", "order_items", ["product_id"])


def create_order_transitions() -> None:
    op.create_table(
        "order_transitions",
        sa.Column("order_id", sa.Uuid, sa.ForeignKey("orders.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("version", sa.Integer, primary_key=True),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("changed_at", sa.DateTime(timezone=True), nullable=False),
    )


def create_sagas() -> None:
    op.create_table(
        "sagas",
        sa.Column("order_id", sa.Uuid, sa.ForeignKey("orders.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("fencing_token", sa.BigInteger, nullable=False),
        sa.Column("leased_until", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_index("sagas_leased_until_idx", "sagas", ["leased_until"])
