"""An import is followed by statistics soon: the plan of a search depends on how many products hold a word."""

from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.execute("ALTER TABLE products SET (autovacuum_analyze_scale_factor = 0.02)")
