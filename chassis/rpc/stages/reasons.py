"""Reasons: in tests, an RPC that fails with a reason that its contract does not declare fails with INTERNAL."""

from typing import Any

from protomesh.type.v1 import error_reason_pb2

from chassis.contract.methods import MethodContract
from chassis.rpc.call import Call
from chassis.rpc.failure import from_exception
from chassis.rpc.stage import Proceed, Stage

# The reasons that the chassis itself uses, for any RPC.
_COMMON = frozenset(error_reason_pb2.ErrorReason.keys())


class UndeclaredReason(Exception):
    """The contract of an RPC does not declare a reason that its handler failed with."""


def stage(contract: MethodContract, *, check: bool) -> Stage | None:
    """Returns the stage that checks reasons; None when they are not checked, and for contracts that are not ours."""
    return _Reasons(contract) if check and not contract.foreign else None


class _Reasons:
    def __init__(self, contract: MethodContract) -> None:
        self._known = contract.errors | _COMMON

    async def __call__(self, proceed: Proceed, request: Any, call: Call) -> Any:
        try:
            return await proceed(request, call)
        except Exception as error:
            reason = from_exception(error).reason
            if reason not in self._known:
                raise UndeclaredReason(
                    f"{call.method.full_name} failed with {reason}; declare it in (protomesh.options.v1.errors)."
                ) from error
            raise
