"""The outbox: events are written in the transaction of the change they tell of, and sent afterwards."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from google.protobuf.message import Message
from sqlalchemy import bindparam, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncSession

from chassis.contract.event_content import published
from chassis.contract.event_types import event_type
from chassis.core.identifiers import uuid7
from chassis.observe import tracing

# Under the broker's limit of 1 MiB for a message with its headers. What is larger belongs in object storage.
MAXIMUM_PAYLOAD_BYTES = 512 * 1024
RETENTION_DAYS = 7

# PostgreSQL gives `position` after the changed rows were locked, so it follows the order of an aggregate's
# changes whatever the clocks say. `previous_id` is the link by which consumers keep that order.
_INSERT = text("""
    INSERT INTO outbox (id, type, stream, subject, aggregate_type, aggregate_id, aggregate_version, payload,
                        trace_context, previous_id)
    VALUES (:id, :type, :stream, :subject, :aggregate_type, :aggregate_id, :aggregate_version, :payload,
            :trace_context,
            (SELECT earlier.id FROM outbox earlier WHERE earlier.subject = :subject
             ORDER BY earlier.position DESC LIMIT 1))
    """).bindparams(bindparam("trace_context", type_=JSONB))


@dataclass(frozen=True, slots=True)
class Draft:
    """An event that waits for its transaction's commit."""

    id: uuid.UUID
    type: str
    stream: str
    subject: str
    aggregate_type: str
    aggregate_id: str
    aggregate_version: int
    payload: bytes
    trace_context: dict[str, str]


def draft(event: Message, version: int = 0) -> Draft:
    """An event as it will be sent, with the trace that it continues; without personal data (see `published`).

    TypeError for a message that is no event, ValueError for one that names no aggregate or is too large.
    """
    kind = event_type(type(event))
    aggregate_id = kind.aggregate_id(event)
    payload = published(event).SerializeToString(deterministic=True)
    if len(payload) > MAXIMUM_PAYLOAD_BYTES:
        raise ValueError(
            f"{kind.name} has {len(payload)} bytes; an event has at most {MAXIMUM_PAYLOAD_BYTES}."
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


async def write(session: AsyncSession, drafts: Sequence[Draft]) -> None:
    """Inserts events, in order; a trigger wakes the relays when the transaction commits."""
    for event in drafts:
        # One by one, so that an event sees the one before it as its previous.
        await session.execute(_INSERT, {name: getattr(event, name) for name in Draft.__slots__})
