"""The chassis's own tables, and one to change in tests."""

from alembic import op

from chassis.data import migrations

revision = "0001"
down_revision = None


def upgrade() -> None:
    migrations.create_chassis_tables(op)
    op.execute("""
        CREATE TABLE things (
            id uuid PRIMARY KEY,
            name text,
            rank integer NOT NULL DEFAULT 0,
            created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
            version integer NOT NULL DEFAULT 1
        )
        """)
