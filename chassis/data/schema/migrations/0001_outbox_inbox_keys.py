"""Outbox, inbox and idempotency keys. Before the chassis had revisions, each service's first one created them."""

from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    for statement in _TABLES:
        op.execute(statement)


_TABLES = (
    """
    CREATE TABLE outbox (
        position bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        id uuid NOT NULL UNIQUE,
        type text NOT NULL,
        stream text NOT NULL,
        subject text NOT NULL,
        aggregate_type text NOT NULL,
        aggregate_id text NOT NULL,
        aggregate_version bigint NOT NULL,
        payload bytea NOT NULL,
        trace_context jsonb NOT NULL,
        previous_id uuid,
        created_at timestamptz NOT NULL DEFAULT now(),
        published_at timestamptz
    )
    """,
    "CREATE INDEX outbox_unpublished_idx ON outbox (position) WHERE published_at IS NULL",
    "CREATE INDEX outbox_subject_idx ON outbox (subject, position)",
    "CREATE INDEX outbox_published_idx ON outbox (published_at)",
    """
    CREATE FUNCTION outbox_notify() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM pg_notify('outbox', '');
        RETURN NULL;
    END $$
    """,
    """
    CREATE TRIGGER outbox_notify AFTER INSERT ON outbox
    FOR EACH STATEMENT EXECUTE FUNCTION outbox_notify()
    """,
    """
    CREATE TABLE inbox (
        consumer text NOT NULL,
        event_id uuid NOT NULL,
        outcome text NOT NULL DEFAULT 'handled' CHECK (outcome IN ('handled', 'dead')),
        handled_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (consumer, event_id)
    )
    """,
    "CREATE INDEX inbox_handled_at_idx ON inbox (handled_at)",
    """
    CREATE TABLE inbox_failures (
        consumer text NOT NULL,
        event_id uuid NOT NULL,
        aggregate_id text NOT NULL,
        attempts integer NOT NULL,
        next_attempt_at timestamptz NOT NULL,
        error text NOT NULL,
        PRIMARY KEY (consumer, event_id)
    )
    """,
    """
    CREATE TABLE idempotency_keys (
        scope bytea PRIMARY KEY,
        fingerprint bytea NOT NULL,
        operation_id uuid NOT NULL,
        holder uuid NOT NULL,
        locked_until timestamptz NOT NULL,
        status_code integer,
        answer bytea,
        created_at timestamptz NOT NULL DEFAULT now(),
        expires_at timestamptz NOT NULL
    )
    """,
    "CREATE INDEX idempotency_keys_expires_at_idx ON idempotency_keys (expires_at)",
)
