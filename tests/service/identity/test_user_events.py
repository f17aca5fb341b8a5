"""The whole life of a user, as identity tells it to other services."""

import argon2
import psycopg
from google.protobuf.message import Message
from protomesh.identity.v1.auth_service_pb2 import ChangePasswordRequest
from protomesh.identity.v1.identity_events_pb2 import UserDisabled, UserEnabled, UserRegistered, UserUpdated
from protomesh.identity.v1.role_service_pb2 import AssignRoleRequest
from protomesh.identity.v1.role_service_pb2_grpc import RoleServiceStub
from protomesh.identity.v1.user_pb2 import Account
from protomesh.identity.v1.user_service_pb2 import (
    DisableUserRequest,
    EnableUserRequest,
    GetMeRequest,
    UpdateUserRequest,
)

from chassis.contract import all_event_types
from tests.service.identity.accounts import PASSWORD
from tests.service.identity.stand import ADMIN_EMAIL, Identity


async def told(url: str, user_id: str) -> list[tuple[Message, int]]:
    """The events about a user and the versions that they carry, without those about sessions."""
    kinds = all_event_types()
    async with await psycopg.AsyncConnection.connect(url) as connection:
        rows = await connection.execute(
            "SELECT type, payload, aggregate_version FROM outbox WHERE aggregate_id = %s "
            "AND type <> 'protomesh.identity.v1.SessionsRevoked' ORDER BY position",
            [user_id],
        )
        return [
            (kinds[type_].message_class.FromString(bytes(payload)), version)
            async for type_, payload, version in rows
        ]


async def test_every_change_of_a_user_is_told_once_in_order_with_its_version(
    identity: Identity, migrated_url: str
) -> None:
    user = await identity.register()
    session = await identity.sign_in(user.email)
    update = UpdateUserRequest(id=user.id, first_name="Ada")
    for _ in range(2):  # the second changes nothing
        await identity.users.UpdateUser(update, metadata=session)
    change = ChangePasswordRequest(current_password=PASSWORD, new_password=PASSWORD[::-1])
    await identity.auth.ChangePassword(change, metadata=session)
    admin = await identity.sign_in(ADMIN_EMAIL)
    roles = RoleServiceStub(identity.channel("edge"))
    for _ in range(2):
        await roles.AssignRole(AssignRoleRequest(id=user.id, role=Account.staff), metadata=admin)
        await identity.users.DisableUser(DisableUserRequest(id=user.id), metadata=admin)
    for _ in range(2):
        enabled = await identity.users.EnableUser(EnableUserRequest(id=user.id), metadata=admin)
    events = await told(migrated_url, user.id)
    assert [(type(event), version) for event, version in events] == [
        (UserRegistered, 1),
        (UserUpdated, 2),
        (UserUpdated, 3),
        (UserUpdated, 4),
        (UserDisabled, 5),
        (UserEnabled, 6),
    ]
    last = events[-1][0]
    assert isinstance(last, UserEnabled)
    assert (last.account.role, last.account.disabled) == (Account.staff, False)
    assert last.account.etag == enabled.etag


async def test_what_is_told_of_a_user_holds_no_personal_data(identity: Identity, migrated_url: str) -> None:
    user = await identity.register(email="grace@example.org")
    session = await identity.sign_in(user.email)
    update = UpdateUserRequest(id=user.id, first_name="Grace", last_name="Hopper")
    await identity.users.UpdateUser(update, metadata=session)
    for event, _ in await told(migrated_url, user.id):
        said = event.SerializeToString()
        assert not any(datum in said for datum in (b"grace@example.org", b"Grace", b"Hopper"))


async def test_the_first_administrator_is_told_as_any_user(identity: Identity, migrated_url: str) -> None:
    admin = await identity.users.GetMe(GetMeRequest(), metadata=await identity.sign_in(ADMIN_EMAIL))
    [(event, version)] = await told(migrated_url, admin.id)
    assert isinstance(event, UserRegistered)
    assert (event.account.role, event.account.etag, version) == (Account.admin, "1", 1)


async def test_a_hash_that_is_renewed_at_a_login_is_no_change_of_the_user(
    identity: Identity, migrated_url: str
) -> None:
    user = await identity.register()
    outdated = argon2.PasswordHasher(time_cost=1, memory_cost=8192, parallelism=1).hash(PASSWORD)
    async with await psycopg.AsyncConnection.connect(migrated_url, autocommit=True) as connection:
        await connection.execute("UPDATE users SET password_hash = %s WHERE id = %s", [outdated, user.id])
        session = await identity.sign_in(user.email)
        kept = await connection.execute("SELECT password_hash, version FROM users WHERE id = %s", [user.id])
        row = await kept.fetchone()
    assert row
    assert row[0].startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert row[1] == 1
    assert (await identity.users.GetMe(GetMeRequest(), metadata=session)).etag == "1"
    await identity.sign_in(user.email)
    assert len(await told(migrated_url, user.id)) == 1
