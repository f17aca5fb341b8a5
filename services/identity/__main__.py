"""Starts identity."""

from chassis.service import Service, run
from services.identity import bootstrap, expiry
from services.identity.auth_service import AuthService
from services.identity.passwords import PasswordPools
from services.identity.role_service import RoleService
from services.identity.sessions import Sessions
from services.identity.settings import IdentitySettings
from services.identity.signing_keys import KeyRing
from services.identity.user_service import UserService


async def compose(service: Service) -> None:
    settings, database = service.settings, service.database
    assert isinstance(settings, IdentitySettings)
    passwords = PasswordPools.of(settings)
    keys = KeyRing(database, settings)
    await bootstrap.prepare(database, keys, passwords.registration, settings)
    auth = AuthService(database, passwords, Sessions(keys, settings), keys)
    service.serve("protomesh.identity.v1.AuthService", auth)
    service.serve("protomesh.identity.v1.UserService", UserService(database, passwords.change))
    service.serve("protomesh.identity.v1.RoleService", RoleService(database))
    service.token_keys = keys
    service.background(lambda: expiry.run(database))


if __name__ == "__main__":
    run("identity", compose, settings=IdentitySettings)
