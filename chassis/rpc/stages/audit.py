"""Audit: who did what with which outcome, for the RPCs whose contracts ask for it."""

import logging
from collections.abc import Awaitable
from functools import partial
from typing import Any

from chassis.contract.methods import MethodContract
from chassis.observe.logs import redacted
from chassis.rpc.call import Call
from chassis.rpc.stage import Proceed, Stage

logger = logging.getLogger("audit")


def stage(contract: MethodContract) -> Stage | None:
    """The stage of an RPC with the audit option; None for others."""
    return _audit if contract.audit else None


def _audit(proceed: Proceed, request: Any, call: Call) -> Awaitable[Any]:
    call.at_end(partial(_record, request))
    return proceed(request, call)


def _record(request: Any, call: Call) -> None:
    logger.info(
        "%s by %s",
        call.method.full_name,
        call.caller.principal,
        extra={
            "method": call.method.full_name,
            "user_id": call.caller.user_id,
            "role": call.caller.role,
            "workload": call.caller.workload,
            "address": call.address,
            "outcome": call.code.name,
            "reason": call.failure.reason if call.failure else "",
            "request": None if call.method.client_streaming else redacted(request),
        },
    )
