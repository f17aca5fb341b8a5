"""Access: whether this caller may make this call at all. What they may see of it is the handler's to scope."""

from collections.abc import Awaitable
from typing import Any

from chassis.contract.methods import MethodContract
from chassis.core.errors import PermissionDenied, Unauthenticated
from chassis.rpc.call import Call
from chassis.rpc.stage import Proceed, Stage


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


def _authenticated(proceed: Proceed, request: Any, call: Call) -> Awaitable[Any]:
    _demand_token(call)
    return proceed(request, call)


def _demand_token(call: Call) -> None:
    if not call.caller.user_id:
        raise Unauthenticated("TOKEN_MISSING", "This needs an access token; sign in first.")


class _Permission:
    def __init__(self, permission: str) -> None:
        self._permission = permission

    def __call__(self, proceed: Proceed, request: Any, call: Call) -> Awaitable[Any]:
        if self._permission in call.caller.permissions:
            return proceed(request, call)
        _demand_token(call)
        raise PermissionDenied(
            "PERMISSION_MISSING",
            "Your role does not grant what this needs.",
            metadata={"permission": self._permission},
        )


class _Internal:
    def __init__(self, contract: MethodContract) -> None:
        assert contract.access is not None
        self._admits = contract.access.admits_workload
        self._method = contract.path[1:]

    def __call__(self, proceed: Proceed, request: Any, call: Call) -> Awaitable[Any]:
        if self._admits(call.caller.workload):
            return proceed(request, call)
        raise PermissionDenied(
            "WORKLOAD_NOT_ALLOWED",
            "This RPC is for other services of the mesh.",
            metadata={"method": self._method},
        )
