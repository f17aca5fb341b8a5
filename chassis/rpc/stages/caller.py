"""The caller: the person behind the bearer token, and the workload behind the certificate."""

from collections.abc import Awaitable
from functools import partial
from typing import Any

from chassis.contract.methods import MethodContract
from chassis.core.errors import Unauthenticated
from chassis.rpc.call import Call, Caller
from chassis.rpc.stage import Proceed
from chassis.trust.certificates import workload_of
from chassis.trust.tokens import Principal, TokenVerifier

_SCHEME = "bearer "
_SPELLINGS = frozenset(("Bearer ", "bearer "))


class CallerStage:
    """The stage that sets `call.caller`.

    A public RPC ignores an invalid token: a client that signs in again may still send its old one.
    """

    def __init__(self, contract: MethodContract, verifier: TokenVerifier, trust_domain: str) -> None:
        assert contract.access is not None
        self._verifier = verifier
        self._lenient = contract.access.kind == "public"
        self._spiffe_prefix = f"spiffe://{trust_domain}/".encode()

    def __call__(self, proceed: Proceed, request: Any, call: Call) -> Awaitable[Any]:
        header = call.metadata.get("authorization")
        if not header:
            call.caller = Caller(workload=partial(workload_of, call.context, self._spiffe_prefix))
            return proceed(request, call)
        scheme, token = header[: len(_SCHEME)], header[len(_SCHEME) :]
        principal = self._verifier.known(token) if scheme in _SPELLINGS else None
        if principal is None:
            return self._unknown(scheme, token, proceed, request, call)
        call.caller = self._caller(principal, token, call)
        return proceed(request, call)

    async def _unknown(self, scheme: str, token: str, proceed: Proceed, request: Any, call: Call) -> Any:
        principal = await self._verify(scheme, token)
        if principal is None:
            call.caller = Caller(workload=partial(workload_of, call.context, self._spiffe_prefix))
        else:
            call.caller = self._caller(principal, token, call)
        return await proceed(request, call)

    def _caller(self, principal: Principal, token: str, call: Call) -> Caller:
        return Caller(
            principal.user_id,
            principal.role,
            principal.permissions,
            principal.session_id,
            partial(workload_of, call.context, self._spiffe_prefix),
            token,
        )

    async def _verify(self, scheme: str, token: str) -> Principal | None:
        try:
            if scheme.lower() != _SCHEME:
                raise Unauthenticated("TOKEN_INVALID", "The authorization header is not `Bearer <token>`.")
            return await self._verifier.verify(token)
        except Unauthenticated:
            if self._lenient:
                return None
            raise
