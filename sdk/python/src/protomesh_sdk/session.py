"""Who the client is: the tokens of a signed-in user, renewed before they run out."""

import threading
import time

from protomesh.identity.v1.auth_service_pb2 import (
    LoginUserRequest,
    LogoutUserRequest,
    RefreshTokenRequest,
    TokenGrant,
)
from protomesh.identity.v1.auth_service_pb2_grpc import AuthServiceStub

from protomesh_sdk.errors import Unauthenticated

# Before its end a token is not used any more: a call that starts now must still arrive with a valid one.
MARGIN_SECONDS = 30


class Session:
    """The tokens of one user. Threads may share it: one of them renews, the others wait."""

    def __init__(self, auth: AuthServiceStub) -> None:
        self._auth = auth
        self._grant: TokenGrant | None = None
        self._valid_until = 0.0
        self._lock = threading.Lock()

    def login(self, email: str, password: str) -> None:
        """Signs in. Raises Unauthenticated `LOGIN_FAILED`, ResourceExhausted after too many failures."""
        grant = self._auth.LoginUser(LoginUserRequest(email=email, password=password))
        with self._lock:
            self._keep(grant)

    def logout(self) -> None:
        """Signs out; the tokens are refused everywhere within seconds. Without a session nothing happens."""
        if token := self.access_token():
            self._auth.LogoutUser(LogoutUserRequest(), metadata=(("authorization", f"Bearer {token}"),))
        with self._lock:
            self._grant = None

    def access_token(self) -> str:
        """A token that is valid for some time yet; empty without a session. Raises Unauthenticated when it ended."""
        with self._lock:
            if self._grant is not None and time.monotonic() > self._valid_until:
                self._renew(self._grant.refresh_token)
            return self._grant.access_token if self._grant else ""

    def _renew(self, refresh_token: str) -> None:
        try:
            self._keep(self._auth.RefreshToken(RefreshTokenRequest(refresh_token=refresh_token)))
        except Unauthenticated:
            self._grant = None
            raise

    def _keep(self, grant: TokenGrant) -> None:
        self._grant = grant
        self._valid_until = time.monotonic() + grant.expires_in - MARGIN_SECONDS
