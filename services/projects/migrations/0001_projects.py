"""Projects and their members."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

STATUSES = "status IN ('planned', 'active', 'on_hold', 'completed', 'archived')"
ROLES = "role IN ('owner', 'member')"


def upgrade() -> None:
    op.execute("CREATE EXTENSION IF NOT EXISTS pg_trgm")
    create_projects()
    create_project_members()


def create_projects() -> None:
    op.create_table(
        "projects",
        sa.Column("id", sa.Uuid, primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("description", sa.Text, nullable=False),
        sa.Column("status", sa.Text, sa.CheckConstraint(STATUSES), nullable=False),
        sa.Column("owner_id", sa.Uuid, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_index("projects_owner_id_idx", "projects", ["owner_id"])
    op.create_index("projects_created_at_idx", "projects", [sa.text("created_at DESC"), sa.text("id DESC")])
    op.create_index(
        "projects_search_idx",
        "projects",
        [sa.text("name gin_trgm_ops"), sa.text("description gin_trgm_ops")],
        postgresql_using="gin",
    )


def create_project_members() -> None:
    op.create_table(
        "project_members",
        sa.Column("project_id", sa.Uuid, sa.ForeignKey("projects.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("user_id", sa.Uuid, primary_key=True),
        sa.Column("role", sa.Text, sa.CheckConstraint(ROLES), nullable=False),
        sa.Column("joined_at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_index("project_members_user_id_idx", "project_members", ["user_id"])
