"""Access: whether this caller may make this call at all. What they may see of it is the handler's to scope."""

from typing import Any

from chassis.call import Call
from chassis.contract import MethodContract
from chassis.errors import PermissionDenied, Unauthenticated
from chassis.stage import Proceed, Stage


async def _authenticated(request: Any, call: Call, proceed: Proceed) -> Any:
    _demand_token(call)
    return await proceed(request, call)


class _Permission:
    def __init__(self, permission: str) -> None:
        self._permission = permission

    async def __call__(self, request: Any, call: Call, proceed: Proceed) -> Any:
        _demand_token(call)
        if self._permission not in call.caller.permissions:
            raise PermissionDenied(
                "PERMISSION_MISSING",
                "Your role does not grant what this needs.",
                metadata={"permission": self._permission},
            )
        return await proceed(request, call)


class _Internal:
    def __init__(self, contract: MethodContract) -> None:
        assert contract.access is not None
        self._admits = contract.access.admits_workload
        self._method = contract.path[1:]

    async def __call__(self, request: Any, call: Call, proceed: Proceed) -> Any:
        if not self._admits(call.caller.workload):
            raise PermissionDenied(
                "WORKLOAD_NOT_ALLOWED",
                "This RPC is for other services of the mesh.",
                metadata={"method": self._method},
            )
        return await proceed(request, call)


def stage(contract: MethodContract) -> Stage | None:
    """The check that the contract asks for; None when everybody may call."""
    assert contract.access is not None
    match contract.access.kind:
        case "public":
            return None
        case "authenticated":
            return _authenticated
        case "permission":
            return _Permission(contract.access.permission)
        case "internal":
            return _Internal(contract)


def _demand_token(call: Call) -> None:
    if not call.caller.user_id:
        raise Unauthenticated("TOKEN_MISSING", "This needs an access token; sign in first.")
