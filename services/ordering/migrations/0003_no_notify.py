"""A change of an order notifies nobody within its transaction: who watches is woken by the event about it."""

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.execute("DROP TRIGGER order_changed ON orders")
    op.execute("DROP FUNCTION notify_order_changed")
