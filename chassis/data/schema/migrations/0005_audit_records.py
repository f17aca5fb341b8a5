"""The records that audited RPCs leave."""

from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE audit_records (
            id uuid PRIMARY KEY,
            occurred_at timestamptz NOT NULL DEFAULT now(),
            method text NOT NULL,
            principal text NOT NULL,
            role text NOT NULL,
            workload text NOT NULL,
            address text NOT NULL,
            outcome text NOT NULL,
            reason text NOT NULL,
            operation_id uuid NOT NULL,
            trace_id text NOT NULL,
            request jsonb NOT NULL
        )
        """
    )
    op.execute("CREATE INDEX audit_records_occurred_at_idx ON audit_records (occurred_at, id)")
    op.execute("CREATE INDEX audit_records_principal_idx ON audit_records (principal, occurred_at, id)")
    op.execute("CREATE INDEX audit_records_method_idx ON audit_records (method, occurred_at, id)")
