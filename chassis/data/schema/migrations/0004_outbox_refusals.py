"""Refused events wait separately; no trigger notifies any more, since that made all commits queue for one lock."""

from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.execute("DROP TRIGGER outbox_notify ON outbox")
    op.execute("DROP FUNCTION outbox_notify")
    op.execute("ALTER TABLE outbox ADD COLUMN attempts integer NOT NULL DEFAULT 0")
    op.execute("ALTER TABLE outbox ADD COLUMN next_attempt_at timestamptz")
    op.execute("ALTER TABLE outbox ADD COLUMN error text")
    op.execute("ALTER TABLE outbox ADD COLUMN rebuilds integer NOT NULL DEFAULT 0")
    op.execute(
        "CREATE INDEX outbox_refused_idx ON outbox (aggregate_type, aggregate_id)"
        " WHERE published_at IS NULL AND next_attempt_at IS NOT NULL"
    )
