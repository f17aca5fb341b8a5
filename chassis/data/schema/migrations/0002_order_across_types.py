"""An event names the last one of each type about its aggregate, so that order holds across types."""

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.execute("ALTER TABLE outbox ADD COLUMN previous jsonb NOT NULL DEFAULT '{}'")
    op.execute(
        "UPDATE outbox SET previous = jsonb_build_object(type, previous_id) WHERE previous_id IS NOT NULL"
    )
    op.execute("ALTER TABLE outbox DROP COLUMN previous_id")
    op.execute("DROP INDEX outbox_subject_idx")
    op.execute("CREATE INDEX outbox_aggregate_idx ON outbox (aggregate_type, aggregate_id, position)")
