"""A table to change in tests."""

from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.execute("""
        CREATE TABLE things (
            id uuid PRIMARY KEY,
            name text,
            rank integer NOT NULL DEFAULT 0,
            created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
            version integer NOT NULL DEFAULT 1
        )
        """)
