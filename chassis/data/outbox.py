"""The outbox: events are written in the transaction of the change that they describe, and sent afterwards."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import Message
from psycopg.types.json import Jsonb
from sqlalchemy import text

from chassis.contract.event_content import published
from chassis.contract.event_types import event_type
from chassis.core.identifiers import uuid7
from chassis.data.queries import Prepared, Step
from chassis.observe import tracing

# Below the broker's limit of 1 MiB for a message with its headers. Larger data belongs in object storage.
MAXIMUM_PAYLOAD_BYTES = 512 * 1024
RETENTION_DAYS = 7

# PostgreSQL assigns `position` after the changed rows were locked, so it follows the order of an aggregate's changes
# whatever the clocks say. `previous` holds the last event of each type about the aggregate: the `previous` of the row
# before it, and that row itself. Consumers use it to keep the order, whichever types they subscribe to.
_INSERT = Prepared(
    text("""
    INSERT INTO outbox (id, type, stream, subject, aggregate_type, aggregate_id, aggregate_version, payload,
                        trace_context, previous)
    SELECT id, type, stream, subject, aggregate_type, aggregate_id, aggregate_version, payload, trace_context,
           coalesce((SELECT earlier.previous || jsonb_build_object(earlier.type, earlier.id) FROM outbox earlier
                     WHERE earlier.aggregate_type = draft.aggregate_type AND earlier.aggregate_id = draft.aggregate_id
                     ORDER BY earlier.position DESC LIMIT 1), '{}') || previous
    FROM unnest(CAST(:id AS uuid[]), CAST(:type AS text[]), CAST(:stream AS text[]),
                CAST(:subject AS text[]), CAST(:aggregate_type AS text[]), CAST(:aggregate_id AS text[]),
                CAST(:aggregate_version AS bigint[]), CAST(:payload AS bytea[]), CAST(:trace_context AS jsonb[]),
                CAST(:previous AS jsonb[]))
        WITH ORDINALITY AS draft (id, type, stream, subject, aggregate_type, aggregate_id, aggregate_version, payload,
                                  trace_context, previous, number)
    ORDER BY number
    """)
)


# Most units of work have one event, for which this costs PostgreSQL and the driver a fraction of the arrays.
_INSERT_ONE = Prepared(
    text("""
    INSERT INTO outbox (id, type, stream, subject, aggregate_type, aggregate_id, aggregate_version, payload,
                        trace_context, previous)
    VALUES (:id, :type, :stream, :subject, :aggregate_type, :aggregate_id, :aggregate_version, :payload,
            CAST(:trace_context AS jsonb),
            coalesce((SELECT earlier.previous || jsonb_build_object(earlier.type, earlier.id) FROM outbox earlier
                      WHERE earlier.aggregate_type = :aggregate_type AND earlier.aggregate_id = :aggregate_id
                      ORDER BY earlier.position DESC LIMIT 1), '{}'))
    """)
)


@dataclass(frozen=True, slots=True)
class Draft:
    """An event that waits for its transaction to commit."""

    id: uuid.UUID
    type: str
    stream: str
    subject: str
    aggregate_type: str
    aggregate_id: str
    aggregate_version: int
    payload: bytes
    trace_context: dict[str, str]


def draft(event: Message, version: int) -> Draft:
    """Returns an event as it will be sent, with the trace that it continues; without personal data (see `published`).

    Raises TypeError for a message that is not an event, ValueError for one that names no aggregate or is too large.
    """
    kind = event_type(type(event))
    aggregate_id = kind.aggregate_id(event)
    payload = published(event).SerializeToString(deterministic=True)
    if len(payload) > MAXIMUM_PAYLOAD_BYTES:
        raise ValueError(
            f"{kind.name} has {len(payload)} bytes; an event may have at most {MAXIMUM_PAYLOAD_BYTES}."
        )
    return Draft(
        id=uuid7(),
        type=kind.name,
        stream=kind.stream,
        subject=kind.subject_of(aggregate_id),
        aggregate_type=kind.aggregate_type,
        aggregate_id=aggregate_id,
        aggregate_version=version,
        payload=payload,
        trace_context=tracing.trace_headers(),
    )


def insertion(drafts: Sequence[Draft]) -> Step:
    """Returns the write that inserts events, in order."""
    if len(drafts) == 1:
        [event] = drafts
        values = {name: getattr(event, name) for name in Draft.__slots__}
        return _INSERT_ONE, values | {"trace_context": Jsonb(event.trace_context)}
    columns: dict[str, list[Any]] = {
        name: [getattr(event, name) for event in drafts] for name in Draft.__slots__
    }
    columns["trace_context"] = [Jsonb(event.trace_context) for event in drafts]
    columns["previous"] = [Jsonb(previous) for previous in _previous_within(drafts)]
    return _INSERT, columns


def _previous_within(drafts: Sequence[Draft]) -> list[dict[str, str]]:
    """Returns, for each event, the last of each type before it in the batch; the statement cannot see its own rows."""
    last: dict[tuple[str, str], dict[str, str]] = {}
    previous = []
    for event in drafts:
        aggregate = (event.aggregate_type, event.aggregate_id)
        before = last.get(aggregate, {})
        previous.append(before)
        last[aggregate] = {**before, event.type: str(event.id)}
    return previous
