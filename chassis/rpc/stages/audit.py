"""Audit: records who did what with which outcome before the answer is sent, for RPCs whose contract requires it."""

import asyncio
import contextvars
import dataclasses
import logging
import re
from collections.abc import Awaitable
from functools import partial
from typing import Any
from uuid import UUID

import grpc
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from chassis.data.audit_records import AuditEntry, AuditRecord
from chassis.data.database import Database
from chassis.data.unit_of_work import current_audit
from chassis.observe import tracing
from chassis.rpc.call import Call
from chassis.rpc.stage import Proceed

logger = logging.getLogger("audit")

_WRITE_SECONDS = 1.0
# Outcomes that are no decision: the call did not finish in time or was given up. A caller that still waits for the
# answer does not wait for the record too.
_UNDECIDED = frozenset(
    (
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.UNAVAILABLE,
    )
)
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


class Audit:
    """The stage of RPCs with the audit option.

    A success is recorded in the transaction of the call's unit of work, or before the answer when it has none: a call
    that cannot be recorded fails. A refusal is recorded before it is sent; if that fails, it is logged.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._writing: set[asyncio.Task[None]] = set()

    async def __call__(self, proceed: Proceed, request: Any, call: Call) -> Any:
        entry = AuditEntry(lambda: _record(request, call, grpc.StatusCode.OK))
        current_audit.set(entry)
        call.on_failure = partial(self._failed, entry, request)
        answer = await proceed(request, call)
        await entry.close(self._database)
        return answer

    def _failed(self, entry: AuditEntry, request: Any, call: Call) -> Awaitable[None]:
        # Created now, since the peer's name cannot be read once the call is over.
        writing = self._write(entry, _record(request, call, call.code))
        if call.code not in _UNDECIDED:
            return writing
        task = asyncio.create_task(writing, context=contextvars.Context())
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)
        nothing = asyncio.get_running_loop().create_future()
        nothing.set_result(None)
        return nothing

    async def _write(self, entry: AuditEntry, record: AuditRecord) -> None:
        if entry.stands and grpc.StatusCode[record.outcome] in _UNDECIDED:
            return  # the change was made, whatever status the caller received
        try:
            async with asyncio.timeout(_WRITE_SECONDS):
                await entry.failed(self._database, record)
        except Exception:
            logger.exception("A refusal could not be recorded.", extra=dataclasses.asdict(record))


def _record(request: Any, call: Call, code: grpc.StatusCode) -> AuditRecord:
    caller = call.caller
    return AuditRecord(
        method=call.method.full_name,
        principal=caller.principal if caller.user_id or caller.workload else "",
        role=caller.role,
        workload=caller.workload,
        address=call.address,
        outcome=code.name,
        reason=call.failure.reason if call.failure else "",
        operation_id=UUID(call.operation_id),
        trace_id=tracing.trace_id(),
        request=_telling(request) if isinstance(request, Message) else {},
    )


def _telling(request: Message) -> dict[str, Any]:
    """Returns a request's fields that identify and decide, but no texts, which may hold personal data."""
    told = {field.name: _told(field, value) for field, value in request.ListFields()}
    return {name: value for name, value in told.items() if value is not None}


def _told(field: FieldDescriptor, value: Any) -> Any:
    if field.is_repeated or field.message_type is not None or field.type == FieldDescriptor.TYPE_BYTES:
        return None
    if field.enum_type is not None:
        known = field.enum_type.values_by_number.get(value)
        return known.name if known else value
    if field.type == FieldDescriptor.TYPE_STRING:
        return value if _UUID.fullmatch(value) else None
    return value
