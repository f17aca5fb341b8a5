"""The client's session: the tokens of a signed-in user, renewed before they expire."""

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

# A token is renewed this long before it expires, so that a call that starts now arrives with a valid one.
MARGIN_SECONDS = 30


class Session:
    """The tokens of one user. Threads may share it: one renews the tokens, the others wait."""

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

    def use(self, grant: TokenGrant) -> None:
        """Uses tokens that were issued elsewhere."""
        with self._lock:
            self._keep(grant)

    def logout(self) -> None:
        """Signs out; the tokens are refused everywhere within seconds. Does nothing without a session."""
        if token := self.access_token():
            self._auth.LogoutUser(LogoutUserRequest(), metadata=(("authorization", f"Bearer {token}"),))
        with self._lock:
            self._grant = None

    def access_token(self) -> str:
        """Returns a token that is not about to expire; "" without a session. Raises Unauthenticated when it ended."""
        with self._lock:
            refresh_token = self._grant.refresh_token if self._grant else ""
            if refresh_token and time.monotonic() > self._valid_until:
                self._renew(refresh_token)
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
