"""The servicer of AuthService."""

from uuid import UUID

from protomesh.identity.v1.auth_service_pb2 import (
    ChangePasswordRequest,
    ChangePasswordResponse,
    GetJsonWebKeySetRequest,
    IssueOperatorTokenRequest,
    JsonWebKeySet,
    LoginUserRequest,
    LogoutUserRequest,
    LogoutUserResponse,
    RefreshTokenRequest,
    RegisteredUser,
    RegisterUserRequest,
    RotateSigningKeyRequest,
    SigningKey,
    TokenGrant,
)

from chassis.core import Unauthenticated
from chassis.data import Database, Row
from chassis.rpc import Call
from services.identity import convert, repository, sessions, user_events
from services.identity.model import User, normal_email
from services.identity.passwords import PasswordPools, outdated, password_incorrect
from services.identity.sessions import Sessions
from services.identity.signing_keys import KeyRing


class AuthService:
    """Registration, sign-in and sign-out, and the keys that verify tokens."""

    def __init__(
        self, database: Database, passwords: PasswordPools, sessions: Sessions, keys: KeyRing
    ) -> None:
        self._database = database
        self._passwords = passwords
        self._sessions = sessions
        self._keys = keys

    async def RegisterUser(self, request: RegisterUserRequest, call: Call) -> RegisteredUser:
        password_hash = await self._passwords.registration.hash(request.password, address=call.address)
        user = User.register(UUID(call.operation_id), request.username, request.email, password_hash)
        with repository.UNIQUE_NAMES.told():
            async with self._database.unit_of_work() as work:
                await user_events.save(work, user, user_events.registered)
        return convert.registered_user(user)

    async def LoginUser(self, request: LoginUserRequest, call: Call) -> TokenGrant:
        email = normal_email(request.email)
        account = await self._database.one(repository.CREDENTIALS_BY_EMAIL, email=email)
        password_hash = account.password_hash if account else None
        right = await self._passwords.login.check(
            request.password, password_hash, account=email, address=call.address
        )
        if account is None or not right:
            raise _login_failed()
        checked = account.password_hash
        if outdated(checked):
            checked = await self._renew(account, request.password, call)
        grant = await self._sessions.start(self._database, account.id, checked)
        if grant is None:
            raise _login_failed()
        return grant

    async def _renew(self, account: Row, password: str, call: Call) -> str:
        """Hashes a correct password with the current parameters; returns the new hash."""
        password_hash = await self._passwords.login.hash(password, address=call.address)
        async with self._database.unit_of_work() as work:
            await work.run(
                repository.RENEW_HASH,
                user_id=account.id,
                checked=account.password_hash,
                renewed=password_hash,
            )
        return password_hash

    async def RefreshToken(self, request: RefreshTokenRequest, call: Call) -> TokenGrant:
        async with self._database.unit_of_work() as work:
            grant = await self._sessions.carry_on(work, request.refresh_token)
        if grant is None:
            # Raised only here, since an exception within the unit of work would undo the revocation.
            raise Unauthenticated("REFRESH_TOKEN_REUSED", "The refresh token was used before; sign in again.")
        return grant

    async def LogoutUser(self, request: LogoutUserRequest, call: Call) -> LogoutUserResponse:
        only = None if request.everywhere else UUID(call.caller.session_id)
        async with self._database.unit_of_work() as work:
            await sessions.end(work, UUID(call.caller.user_id), only=only)
        return LogoutUserResponse()

    async def ChangePassword(self, request: ChangePasswordRequest, call: Call) -> ChangePasswordResponse:
        user_id = UUID(call.caller.user_id)
        account = await self._database.one(repository.CREDENTIALS, id=user_id)
        if account is None:
            raise repository.user_not_found()
        await self._passwords.change.confirm(request.current_password, account, address=call.address)
        password_hash = await self._passwords.change.hash(request.new_password, address=call.address)
        async with self._database.unit_of_work() as work:
            user = await repository.lock_user(work, user_id)
            if user.password_hash != account.password_hash:
                raise password_incorrect()
            user.change(password_hash=password_hash)
            await user_events.save(work, user, user_events.updated)
            await sessions.end(work, user_id, but=UUID(call.caller.session_id))
        return ChangePasswordResponse()

    async def GetJsonWebKeySet(self, request: GetJsonWebKeySetRequest, call: Call) -> JsonWebKeySet:
        return convert.json_web_key_set(self._keys.published())

    async def RotateSigningKey(self, request: RotateSigningKeyRequest, call: Call) -> SigningKey:
        return convert.signing_key(await self._keys.rotate())

    async def IssueOperatorToken(self, request: IssueOperatorTokenRequest, call: Call) -> TokenGrant:
        return self._sessions.operator()


def _login_failed() -> Unauthenticated:
    return Unauthenticated("LOGIN_FAILED", "The email address or the password is wrong.")
