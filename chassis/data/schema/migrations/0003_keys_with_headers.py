"""Keys are claimed before the handler begins, and answers keep their headers."""

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    # Existing keys were claimed with their first effects, and processes of the old version still claim them so.
    op.execute("ALTER TABLE idempotency_keys ADD COLUMN begun boolean NOT NULL DEFAULT true")
    op.execute("ALTER TABLE idempotency_keys ADD COLUMN headers jsonb NOT NULL DEFAULT '[]'")
