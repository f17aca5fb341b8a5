"""Unpaid orders expire, and an order is written in one transaction: there is no saga and no intermediate status."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

STATUSES = "status IN ('pending_payment', 'cancelled', 'expired')"
PENDING = sa.text("status = 'pending_payment'")
# Orders that were in progress or rejected hold nothing that their buyer could wait for.
END_OTHERS = """
UPDATE orders SET status = 'cancelled', version = version + 1, updated_at = now(),
    reason = CASE reason WHEN '' THEN 'interrupted' ELSE reason END
WHERE status IN ('placing', 'rejected')
"""
RECORD_OTHERS = """
INSERT INTO order_transitions (order_id, version, status, reason, changed_at)
SELECT id, version, status, reason, updated_at FROM orders AS ended
WHERE NOT EXISTS (SELECT FROM order_transitions WHERE order_id = ended.id AND version = ended.version)
"""
FORGET_STATUSES = "DELETE FROM order_transitions WHERE status IN ('placing', 'rejected')"
GIVE_TIME = "UPDATE orders SET expires_at = now() + interval '30 minutes' WHERE status = 'pending_payment'"
# Checked when the transaction commits, because stock that has no order after this time is released.
IN_TIME = """
CREATE FUNCTION refuse_late_order() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF clock_timestamp() > NEW.created_at + interval '10 seconds' THEN
        RAISE EXCEPTION 'the order took too long to write' USING ERRCODE = 'serialization_failure';
    END IF;
    RETURN NULL;
END $$
"""
IN_TIME_TRIGGER = """
CREATE CONSTRAINT TRIGGER orders_written_in_time AFTER INSERT ON orders DEFERRABLE INITIALLY DEFERRED
FOR EACH ROW EXECUTE FUNCTION refuse_late_order()
"""


def upgrade() -> None:
    op.drop_constraint("orders_status_check", "orders")
    for statement in (END_OTHERS, RECORD_OTHERS, FORGET_STATUSES):
        op.execute(statement)
    op.create_check_constraint("orders_status_check", "orders", STATUSES)
    op.drop_column("orders", "rejection")
    op.add_column("orders", sa.Column("expires_at", sa.DateTime(timezone=True)))
    op.execute(GIVE_TIME)
    op.create_check_constraint(
        "orders_expires_at_check", "orders", "(expires_at IS NOT NULL) = (status = 'pending_payment')"
    )
    op.create_index("orders_expires_at_idx", "orders", ["expires_at"], postgresql_where=PENDING)
    op.create_index("orders_unpaid_idx", "orders", ["buyer_id"], postgresql_where=PENDING)
    op.drop_table("sagas")
    op.execute(IN_TIME)
    op.execute(IN_TIME_TRIGGER)
