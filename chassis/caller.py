"""The caller: the person behind the bearer token, and the workload behind the certificate."""

from functools import partial
from typing import Any

from chassis.call import Call, Caller
from chassis.contract import MethodContract
from chassis.errors import Unauthenticated
from chassis.stage import Proceed
from chassis.tls import workload_of
from chassis.tokens import Principal, TokenVerifier

_SCHEME = "bearer "


class CallerStage:
    """The stage that fills in `call.caller`.

    A public RPC takes a bad token for none: whoever signs in again may well send the old token along.
    """

    def __init__(self, contract: MethodContract, verifier: TokenVerifier, trust_domain: str) -> None:
        assert contract.access is not None
        self._verifier = verifier
        self._lenient = contract.access.kind == "public"
        self._spiffe_prefix = f"spiffe://{trust_domain}/".encode()

    async def __call__(self, request: Any, call: Call, proceed: Proceed) -> Any:
        workload = partial(workload_of, call.context, self._spiffe_prefix)
        header = call.metadata.get("authorization")
        if header:
            token = header[len(_SCHEME) :]
            principal = self._verifier.known(token) or await self._verify(header)
        else:
            principal = None
        if principal is None:
            call.caller = Caller(workload=workload)
        else:
            call.caller = Caller(
                principal.user_id,
                principal.role,
                principal.permissions,
                principal.session_id,
                workload,
                token,
            )
        return await proceed(request, call)

    async def _verify(self, header: str) -> Principal | None:
        try:
            if header[: len(_SCHEME)].lower() != _SCHEME:
                raise Unauthenticated("TOKEN_INVALID", "The authorization header is not `Bearer <token>`.")
            return await self._verifier.verify(header[len(_SCHEME) :])
        except Unauthenticated:
            if self._lenient:
                return None
            raise
