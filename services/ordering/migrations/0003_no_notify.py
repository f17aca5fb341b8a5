"""A change of an order no longer sends a notification in its transaction: its event wakes the watchers."""

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.execute("DROP TRIGGER order_changed ON orders")
    op.execute("DROP FUNCTION notify_order_changed")
