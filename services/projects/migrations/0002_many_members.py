"""Indexes for the members and the owners of projects with many members."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_index("project_members_list_idx", "project_members", ["project_id", "joined_at", "user_id"])
    op.create_index(
        "project_members_owners_idx",
        "project_members",
        ["project_id", "joined_at"],
        postgresql_where=sa.text("role = 'owner'"),
    )
