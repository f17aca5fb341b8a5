"""Access: whether this caller may make this call at all. The handler scopes what the caller may see."""

from collections.abc import Awaitable
from typing import Any

from chassis.contract.methods import ContractError, MethodContract
from chassis.core.errors import PermissionDenied, Unauthenticated
from chassis.rpc.call import Call
from chassis.rpc.stage import Proceed, Stage


def stage(contract: MethodContract) -> Stage | None:
    """Returns the check that the contract requires; None when everybody may call."""
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
        case "self":
            return _Self(contract)


def _authenticated(proceed: Proceed, request: Any, call: Call) -> Awaitable[Any]:
    _demand_token(call)
    return proceed(request, call)


def _demand_token(call: Call) -> None:
    if not call.caller.user_id:
        raise Unauthenticated("TOKEN_MISSING", "This call requires an access token; sign in first.")


class _Permission:
    def __init__(self, permission: str) -> None:
        self._permission = permission

    def __call__(self, proceed: Proceed, request: Any, call: Call) -> Awaitable[Any]:
        if self._permission in call.caller.permissions:
            return proceed(request, call)
        _demand_token(call)
        raise PermissionDenied(
            "PERMISSION_MISSING",
            "Your role does not grant the permission that this call requires.",
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


class _Self:
    """The check for a signed-in caller. The handler scopes its queries to the caller, unless the call is privileged.

    As a second safeguard, the stage verifies that the answer holds no other user's resources.
    """

    def __init__(self, contract: MethodContract) -> None:
        assert contract.access is not None
        self._permission = contract.access.permission
        self._field = contract.access.owner_field
        answer = contract.descriptor.output_type
        self._lists = self._field not in answer.fields_by_name
        row = answer.fields_by_name["data"].message_type if "data" in answer.fields_by_name else None
        if self._lists and (row is None or self._field not in row.fields_by_name):
            raise ContractError(
                f"{contract.full_name}: no field {self._field!r} of the answer names its owner."
            )

    def __call__(self, proceed: Proceed, request: Any, call: Call) -> Awaitable[Any]:
        _demand_token(call)
        if self._permission in call.caller.permissions:
            call.privileged = True
            return proceed(request, call)
        return self._own(proceed, request, call)

    async def _own(self, proceed: Proceed, request: Any, call: Call) -> Any:
        answer = await proceed(request, call)
        if answer is not None:
            for resource in answer.data if self._lists else (answer,):
                if getattr(resource, self._field) != call.caller.user_id:
                    raise RuntimeError(
                        f"{call.method.full_name} was about to return another user's resource."
                    )
        return answer
