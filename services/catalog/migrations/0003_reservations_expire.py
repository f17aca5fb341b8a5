"""Reservations expire: each knows until when it holds, and when it was last asked for."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

STATUSES = "status IN ('held', 'committed', 'released', 'expired')"
HELD = sa.text("status = 'held'")


def upgrade() -> None:
    for column in ("expires_at", "reserved_at"):
        moment = sa.Column(column, sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now())
        op.add_column("reservations", moment)
    # An order that holds stock today is given longer than a new one.
    op.execute("UPDATE reservations SET expires_at = now() + interval '1 hour'")
    op.drop_constraint("reservations_status_check", "reservations")
    op.create_check_constraint("reservations_status_check", "reservations", STATUSES)
    op.create_index("reservations_expires_at_idx", "reservations", ["expires_at"], postgresql_where=HELD)
    op.create_index(
        "reservations_reserved_at_idx", "reservations", ["reserved_at", "order_id"], postgresql_where=HELD
    )
