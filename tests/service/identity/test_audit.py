"""What audited RPCs leave on record, in identity's own database."""

import asyncio
import copy
import datetime
import functools
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import psycopg_pool
import pytest
from protomesh.identity.v1.auth_service_pb2 import ChangePasswordRequest, LogoutUserRequest
from protomesh.identity.v1.role_service_pb2 import AssignRoleRequest
from protomesh.identity.v1.role_service_pb2_grpc import RoleServiceStub
from protomesh.identity.v1.user_pb2 import Account
from protomesh.identity.v1.user_service_pb2 import DisableUserRequest, GetUserRequest, UpdateUserRequest
from sqlalchemy import text

from chassis import contract
from chassis.data import Database, Prepared, audit_records
from chassis.rpc import Call, Caller
from chassis.rpc.stages import Audit
from services.identity import convert, repository
from tests.patience import eventually
from tests.service.identity.accounts import PASSWORD
from tests.service.identity.stand import ADMIN_EMAIL, Identity, came_from

ADDRESS = "203.0.113.9"
Handler = Callable[[Any, Call], Awaitable[Any]]
LONG_AGO = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)


async def records(url: str, **filters: Any) -> list[Any]:
    """The newest first."""
    return await audit_records.listed(url, since=LONG_AGO, **filters)


async def refusal(call: Any) -> grpc.StatusCode:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call
    return refused.value.code()


async def test_a_change_is_on_record_with_who_what_whom_and_from_where(
    identity: Identity, migrated_url: str
) -> None:
    user = await identity.register()
    admin = await identity.sign_in(ADMIN_EMAIL)
    roles = RoleServiceStub(identity.channel("edge"))
    assign = AssignRoleRequest(id=user.id, role=Account.staff)
    await roles.AssignRole(assign, metadata=(*admin, *came_from(ADDRESS)))
    [record] = await records(migrated_url, method="AssignRole")
    assert record.method == "protomesh.identity.v1.RoleService.AssignRole"
    assert record.principal.startswith("user:")
    assert (record.role, record.workload, record.address) == ("admin", "edge", ADDRESS)
    assert (record.outcome, record.reason) == ("OK", "")
    assert record.request == {"id": user.id, "role": "staff"}
    assert abs(record.occurred_at - datetime.datetime.now(datetime.UTC)) < datetime.timedelta(minutes=1)


async def test_a_refusal_is_on_record_before_it_is_answered(identity: Identity, migrated_url: str) -> None:
    user = await identity.register()
    session = await identity.sign_in(user.email)
    disable = DisableUserRequest(id=str(uuid.uuid4()))
    code = await refusal(identity.users.DisableUser(disable, metadata=session))
    assert code is grpc.StatusCode.PERMISSION_DENIED
    [record] = await records(migrated_url, principal=f"user:{user.id}")
    assert (record.outcome, record.reason) == ("PERMISSION_DENIED", "PERMISSION_MISSING")
    assert record.request == {"id": disable.id}


async def test_a_caller_without_a_token_is_on_record_as_the_workload_that_it_came_through(
    identity: Identity, migrated_url: str
) -> None:
    code = await refusal(identity.auth.LogoutUser(LogoutUserRequest(everywhere=True)))
    assert code is grpc.StatusCode.UNAUTHENTICATED
    [record] = await records(migrated_url)
    assert (record.principal, record.outcome) == ("workload:edge", "UNAUTHENTICATED")
    assert record.request == {"everywhere": True}


async def test_a_record_holds_nothing_that_somebody_wrote(identity: Identity, migrated_url: str) -> None:
    user = await identity.register()
    session = await identity.sign_in(user.email)
    update = UpdateUserRequest(
        id=user.id, first_name="Ada", email="ada@example.org", current_password=PASSWORD
    )
    await identity.users.UpdateUser(update, metadata=session)
    bad = UpdateUserRequest(id="ada@example.org")
    assert await refusal(identity.users.UpdateUser(bad, metadata=session)) in (
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND,
    )
    wrong = ChangePasswordRequest(current_password="not this", new_password="nor that one")
    await refusal(identity.auth.ChangePassword(wrong, metadata=session))
    kept = await records(migrated_url, principal=f"user:{user.id}")
    assert [(record.outcome, record.request) for record in kept] == [
        ("PERMISSION_DENIED", {}),
        (kept[1].outcome, {}),
        ("OK", {"id": user.id}),
    ]


async def test_change_and_record_are_one_transaction(
    identity: Identity, migrated_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = await identity.register()
    session = await identity.sign_in(user.email)
    impossible = Prepared(text("INSERT INTO audit_records DEFAULT VALUES"))
    monkeypatch.setattr(audit_records.AuditEntry, "record", lambda _: (impossible, {}))
    update = UpdateUserRequest(id=user.id, first_name="Ada")
    refused = await refusal(identity.users.UpdateUser(update, metadata=session))
    kept = await identity.users.GetUser(GetUserRequest(id=user.id), metadata=session)
    assert kept.first_name != "Ada"
    [record] = await records(migrated_url, principal=f"user:{user.id}")
    assert record.outcome == refused.name


async def test_a_refusal_after_the_change_is_what_stands_on_record(
    identity: Identity, migrated_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = await identity.register()
    session = await identity.sign_in(user.email)

    def refuse(_: object) -> None:
        raise repository.user_not_found()

    monkeypatch.setattr(convert, "user_message", refuse)
    update = UpdateUserRequest(id=user.id, first_name="Ada")
    assert await refusal(identity.users.UpdateUser(update, metadata=session)) is grpc.StatusCode.NOT_FOUND
    [record] = await records(migrated_url, principal=f"user:{user.id}")
    assert (record.outcome, record.reason) == ("NOT_FOUND", "USER_NOT_FOUND")


async def test_a_refusal_after_a_commit_corrects_the_record(database: Database, migrated_url: str) -> None:
    record = audit_records.AuditRecord("m", "user:u", "", "", "", "OK", "", uuid.uuid4(), "", {})
    entry = audit_records.AuditEntry(lambda: record)
    step = entry.record()
    assert step is not None
    async with database.unit_of_work() as work:
        await work.run(step[0], **step[1])
    entry.committed()
    assert entry.record() is None
    await entry.close(database)
    assert [kept.outcome for kept in await records(migrated_url)] == ["OK"]
    refused = audit_records.AuditRecord("m", "user:u", "", "", "", "ABORTED", "WHY", uuid.uuid4(), "", {})
    await entry.failed(database, refused)
    assert [(kept.outcome, kept.reason) for kept in await records(migrated_url)] == [("ABORTED", "WHY")]


async def test_a_call_that_its_caller_gives_up_is_on_record(
    identity: Identity, migrated_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = await identity.register()
    session = await identity.sign_in(user.email)
    begun = asyncio.Event()

    async def hang(*_: object) -> None:
        begun.set()
        await asyncio.Event().wait()

    monkeypatch.setattr("chassis.data.unit_of_work.execute_together", hang)
    call = identity.users.UpdateUser(UpdateUserRequest(id=user.id, first_name="Ada"), metadata=session)
    await asyncio.wait_for(begun.wait(), 5)
    call.cancel()
    kept = await eventually(lambda: records(migrated_url, principal=f"user:{user.id}"), within=5)
    assert [record.outcome for record in kept] == ["CANCELLED"]


async def test_records_are_found_by_principal_rpc_and_time(database: Database, migrated_url: str) -> None:
    for principal, method in (("user:a", "x.Write"), ("user:b", "x.Write"), ("user:a", "x.Delete")):
        record = audit_records.AuditRecord(method, principal, "", "", "", "OK", "", uuid.uuid4(), "", {})
        await audit_records.AuditEntry(functools.partial(copy.copy, record)).close(database)
    found = await records(migrated_url, principal="user:a", method="delete")
    assert [(record.principal, record.method) for record in found] == [("user:a", "x.Delete")]
    assert len(await records(migrated_url, limit=2)) == 2
    later = datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=1)
    assert await audit_records.listed(migrated_url, since=later) == []


async def test_records_are_deleted_after_their_time_only(database: Database, migrated_url: str) -> None:
    record = audit_records.AuditRecord("m", "user:u", "", "", "", "OK", "", uuid.uuid4(), "", {})
    for _ in range(2):
        await audit_records.AuditEntry(lambda: record).close(database)
    async with database.connection() as connection:
        await connection.execute(
            "UPDATE audit_records SET occurred_at = now() - interval '400 days' "
            "WHERE id = (SELECT min(id::text)::uuid FROM audit_records)"
        )
    assert await audit_records.purge(database, datetime.timedelta(days=365)) == 1
    assert len(await records(migrated_url)) == 1


UPDATE_USER = contract.method_at("/protomesh.identity.v1.UserService/UpdateUser")


async def through_the_stage(database: Database, handler: Handler) -> Any:
    """A call of an audited RPC, of which only the handler and the stage are there."""
    call = Call(UPDATE_USER, {})
    call.caller = Caller(user_id="u")
    request = UpdateUserRequest(id=str(uuid.uuid4()))
    # In a task of its own, as each call of gRPC has one.
    return await asyncio.create_task(_awaited(Audit(database)(handler, request, call)))


async def _awaited(call: Awaitable[Any]) -> Any:
    return await call


async def test_a_call_with_several_transactions_is_one_record(database: Database, migrated_url: str) -> None:
    async def handler(request: Any, call: Call) -> None:
        for _ in range(3):
            async with database.unit_of_work():
                pass

    await through_the_stage(database, handler)
    assert [record.outcome for record in await records(migrated_url)] == ["OK"]


async def test_a_call_without_a_transaction_is_on_record_too(database: Database, migrated_url: str) -> None:
    async def handler(request: Any, call: Call) -> str:
        return "an answer"

    assert await through_the_stage(database, handler) == "an answer"
    assert [record.principal for record in await records(migrated_url)] == ["user:u"]


async def test_what_cannot_be_put_on_record_does_not_succeed() -> None:
    async def handler(request: Any, call: Call) -> str:
        return "an answer"

    nowhere = Database("postgresql://nobody@127.0.0.1:9/nothing")
    async with nowhere:
        with pytest.raises(psycopg_pool.PoolTimeout):
            await through_the_stage(nowhere, handler)


async def test_a_refusal_that_cannot_be_put_on_record_is_one_and_is_in_the_log(
    identity: Identity, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    user = await identity.register()
    session = await identity.sign_in(user.email)

    async def hang(*_: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(audit_records.AuditEntry, "failed", hang)
    disable = DisableUserRequest(id=str(uuid.uuid4()))
    code = await refusal(identity.users.DisableUser(disable, metadata=session))
    assert code is grpc.StatusCode.PERMISSION_DENIED
    [lost] = [line for line in caplog.records if line.name == "audit"]
    assert (lost.levelname, lost.__dict__["principal"]) == ("ERROR", f"user:{user.id}")
