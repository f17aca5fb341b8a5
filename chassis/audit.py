"""Audit: who did what with which outcome, for the RPCs whose contracts ask for it."""

import logging
from typing import Any

from chassis.call import Call
from chassis.contract import MethodContract
from chassis.logs import redacted
from chassis.stage import Proceed, Stage

logger = logging.getLogger("audit")


def stage(contract: MethodContract) -> Stage | None:
    """The stage of an RPC with the audit option; None for others."""
    return _audit if contract.audit else None


async def _audit(request: Any, call: Call, proceed: Proceed) -> Any:
    try:
        return await proceed(request, call)
    finally:
        failure = call.failure
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
                "outcome": failure.code.name if failure else "OK",
                "reason": failure.reason if failure else "",
                "request": None if call.method.client_streaming else redacted(request),
            },
        )
