"""Audit records: who did what with which outcome, in the service's own database."""

import dataclasses
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from psycopg import AsyncConnection
from psycopg.rows import namedtuple_row
from psycopg.types.json import Jsonb
from sqlalchemy import text

from chassis.core.identifiers import uuid7
from chassis.data.database import Database
from chassis.data.queries import Prepared, Row, Step
from chassis.data.retention import BATCH

# A commit whose response was lost may have written the record; the change was then made, and the record is correct.
_INSERT = Prepared(
    text("""
    INSERT INTO audit_records (id, method, principal, role, workload, address, outcome, reason, operation_id,
                               trace_id, request)
    VALUES (:id, :method, :principal, :role, :workload, :address, :outcome, :reason, :operation_id,
            :trace_id, :request)
    ON CONFLICT (id) DO NOTHING
    """)
)
_CORRECT = Prepared(text("UPDATE audit_records SET outcome = :outcome, reason = :reason WHERE id = :id"))
_PURGE = f"""
    DELETE FROM audit_records WHERE id IN
        (SELECT id FROM audit_records WHERE occurred_at < now() - %(kept)s ORDER BY occurred_at LIMIT {BATCH})
    """  # noqa: S608 (a constant of ours)
_LISTED = """
    SELECT occurred_at, method, principal, role, workload, address, outcome, reason, operation_id, trace_id, request
    FROM audit_records
    WHERE occurred_at >= %(since)s
      AND (%(principal)s = '' OR principal = %(principal)s)
      AND (%(method)s = '' OR strpos(lower(method), lower(%(method)s)) > 0)
    ORDER BY occurred_at DESC, id DESC LIMIT %(limit)s
    """


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """One call of an audited RPC. It holds ids, but no names and no text that people wrote."""

    method: str
    # `user:<id>`, or `workload:<name>` for a caller without a token; "" when refused before the caller was known.
    principal: str
    role: str
    workload: str
    # The client's network address, as the edge saw it; "" when the edge was not the peer.
    address: str
    # The canonical code, and the reason if the call was refused.
    outcome: str
    reason: str
    operation_id: uuid.UUID
    trace_id: str
    # The request's fields that identify and decide: ids, enums, numbers and flags.
    request: Mapping[str, Any]


class AuditEntry:
    """The record of one call: written with its unit of work, or by itself when it has none."""

    def __init__(self, describe: Callable[[], AuditRecord]) -> None:
        self._id = uuid7()
        self._describe = describe
        self._written = False

    def record(self) -> Step | None:
        """Returns the write that records, in the transaction of its change, that the call succeeded."""
        return None if self._written else (_INSERT, self._values(self._describe()))

    def committed(self) -> None:
        """Notes that the transaction was committed, and the record with it."""
        self._written = True

    async def close(self, database: Database) -> None:
        """Records that the call succeeded, unless a unit of work did."""
        if not self._written:
            await self._alone(database, _INSERT, self._describe())

    async def failed(self, database: Database, record: AuditRecord) -> None:
        """Records how the call failed; replaces what a unit of work wrote."""
        await self._alone(database, _CORRECT if self._written else _INSERT, record)

    @property
    def stands(self) -> bool:
        """Whether a change made by the call is committed and on record."""
        return self._written

    async def _alone(self, database: Database, statement: Prepared, record: AuditRecord) -> None:
        async with database.connection() as connection:
            await statement.execute(connection, self._values(record))

    def _values(self, record: AuditRecord) -> dict[str, Any]:
        values = {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}
        return {**values, "id": self._id, "request": Jsonb(record.request)}


async def listed(
    database_url: str, *, since: datetime, principal: str = "", method: str = "", limit: int = 100
) -> list[Row]:
    """Returns a service's records, newest first, filtered by a principal and a part of the RPC's name when given."""
    filters = {"since": since, "principal": principal, "method": method, "limit": limit}
    async with await AsyncConnection.connect(database_url, row_factory=namedtuple_row) as connection:
        return await (await connection.execute(_LISTED, filters)).fetchall()


async def purge(database: Database, kept: timedelta) -> int:
    """Deletes a batch of records that are older than `kept`; returns how many."""
    async with database.connection() as connection:
        return (await connection.execute(_PURGE, {"kept": kept})).rowcount
