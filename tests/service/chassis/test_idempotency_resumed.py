"""Idempotency keys of calls that failed, crashed or were overtaken: a retry resumes the same operation."""

import asyncio
from contextlib import suppress
from typing import Any

import pytest
from protomesh.ordering.v1.order_pb2 import Order

from chassis.core import Aborted, InvalidArgument, PermissionDenied, Unavailable
from chassis.data import idempotency_keys
from chassis.rpc import Call
from tests.service.chassis.keyed_shop import OTHER_REQUEST, Shop
from tests.service.chassis.things import Thing, scalar


async def test_a_call_that_is_cancelled_while_it_takes_its_key_does_not_keep_it(
    shop: Shop, key: str, monkeypatch: pytest.MonkeyPatch
):
    """The answer to its claim was on the way, so only the database knows that the call holds the key."""
    take = idempotency_keys.take

    async def taken_and_cut_off(*arguments: Any) -> None:
        await take(*arguments)
        raise asyncio.CancelledError

    with monkeypatch.context() as patch:
        patch.setattr(idempotency_keys, "take", taken_and_cut_off)
        with pytest.raises(asyncio.CancelledError):
            await shop.call(key)
    await asyncio.gather(*shop.stage._releases)
    assert (await shop.call(key))[0].id == shop.executions[0]


async def test_who_lost_a_key_that_was_forgotten_since_is_told_to_ask_again(shop: Shop, key: str):
    async def overtaken(request: Any, call: Call) -> Order:
        async with shop.database.connection() as connection:
            await connection.execute("DELETE FROM idempotency_keys")
        return await shop.place(request, call)

    with pytest.raises(Aborted, match="IN_FLIGHT"):
        await shop.call(key, handler=overtaken)
    assert await scalar(shop.database, "SELECT count(*) FROM things") == 0


@pytest.mark.parametrize(
    "failure",
    [
        Unavailable("DEPENDENCY_UNAVAILABLE", "x"),
        Aborted("CONFLICT", "x"),
        PermissionDenied("NO", "x"),
        ZeroDivisionError(),
        asyncio.CancelledError(),
    ],
    ids=lambda failure: type(failure).__name__,
)
async def test_after_any_other_failure_a_retry_resumes_the_same_operation(
    shop: Shop, key: str, failure: BaseException
):
    async def fail_after_commit(request: Any, call: Call) -> Order:
        await shop.place(request, call)
        raise failure

    with pytest.raises(type(failure)):
        await shop.call(key, handler=fail_after_commit)
    await asyncio.gather(*shop.stage._releases)
    answer, call = await shop.call(key)
    assert answer.id == shop.executions[0] == shop.executions[1]
    assert not call.headers
    assert await scalar(shop.database, "SELECT count(*) FROM things") == 1
    assert await scalar(shop.database, "SELECT count(*) FROM outbox") == 1


async def test_a_failed_call_waits_for_a_moment_until_its_key_is_free(shop: Shop, key: str):
    """So that who retries at once is not told that the call is still running."""
    loop = asyncio.get_running_loop()
    failed = loop.time()
    async with shop.database.connection() as other, other.transaction():

        async def fail(_: Any, call: Call) -> Order:
            nonlocal failed
            await other.execute("SELECT FROM idempotency_keys FOR UPDATE")
            failed = loop.time()
            raise Unavailable("DEPENDENCY_UNAVAILABLE", "x")

        with pytest.raises(Unavailable):
            await shop.call(key, handler=fail)
        assert loop.time() - failed > 0.2
    await asyncio.gather(*shop.stage._releases)
    assert not shop.stage._releases
    assert (await shop.call(key))[0].id == shop.executions[0]


async def test_a_failed_first_transaction_leaves_the_key_free(shop: Shop, key: str):
    async def fail_inside(_: Any, call: Call) -> Order:
        async with shop.database.unit_of_work() as work:
            work.add(Thing(id=call.operation_id))
            raise Unavailable("DEPENDENCY_UNAVAILABLE", "x")

    with pytest.raises(Unavailable):
        await shop.call(key, handler=fail_inside)
    await shop.call(key)
    assert await scalar(shop.database, "SELECT count(*) FROM things") == 1


async def test_after_a_crash_the_key_is_held_for_its_lease_and_then_resumed(
    shop: Shop, key: str, monkeypatch: pytest.MonkeyPatch
):
    class Crash(BaseException):
        pass

    async def crash(request: Any, call: Call) -> Order:
        await shop.place(request, call)
        raise Crash

    shop.dies(monkeypatch)
    with pytest.raises(Crash):
        await shop.call(key, handler=crash)
    with pytest.raises(Aborted, match="IN_FLIGHT"):
        await shop.call(key)
    await shop.leases_end()
    answer, _ = await shop.call(key)
    assert answer.id == shop.executions[0]
    assert await scalar(shop.database, "SELECT count(*) FROM things") == 1


@pytest.mark.parametrize(
    "end", [Unavailable("X", "x"), ZeroDivisionError(), asyncio.CancelledError()], ids=repr
)
async def test_the_operation_id_is_the_same_before_anything_was_written(
    shop: Shop, key: str, end: BaseException
):
    asked: list[str] = []

    async def ask_the_bank_first(request: Any, call: Call) -> Order:
        asked.append(call.operation_id)
        if len(asked) == 1:
            raise end
        assert not call.resumes
        return await shop.place(request, call)

    with pytest.raises(type(end)):
        await shop.call(key, handler=ask_the_bank_first)
    await asyncio.gather(*shop.stage._releases)
    answer, _ = await shop.call(key, handler=ask_the_bank_first)
    assert asked == [answer.id, answer.id]


async def test_the_operation_id_survives_the_death_of_a_process_that_had_written_nothing(
    shop: Shop, key: str, monkeypatch: pytest.MonkeyPatch
):
    asked: list[str] = []

    async def die(_: Any, call: Call) -> Order:
        asked.append(call.operation_id)
        raise asyncio.CancelledError

    with monkeypatch.context() as death:
        shop.dies(death)
        with pytest.raises(asyncio.CancelledError):
            await shop.call(key, handler=die)
    await shop.leases_end()
    answer, _ = await shop.call(key)
    assert asked == [answer.id]


async def test_a_call_that_failed_binds_its_key_to_its_request(shop: Shop, key: str):
    async def fail(_: Any, call: Call) -> Order:
        raise Unavailable("DEPENDENCY_UNAVAILABLE", "x")

    with pytest.raises(Unavailable):
        await shop.call(key, handler=fail)
    with pytest.raises(InvalidArgument, match="IDEMPOTENCY_KEY_REUSED"):
        await shop.call(key, OTHER_REQUEST)


async def test_a_failed_transaction_of_the_first_attempt_is_no_beginning(shop: Shop, key: str):
    resumes: list[bool] = []

    async def fail_at_first(request: Any, call: Call) -> Order:
        resumes.append(call.resumes)
        async with shop.database.unit_of_work() as work:
            work.add(Thing(id=call.operation_id))
            if len(resumes) == 1:
                raise Unavailable("DEPENDENCY_UNAVAILABLE", "x")
        if len(resumes) == 2:
            raise Unavailable("DEPENDENCY_UNAVAILABLE", "x")
        return Order()

    for _ in range(2):
        with pytest.raises(Unavailable):
            await shop.call(key, handler=fail_at_first)
    with suppress(Exception):
        await shop.call(key, handler=fail_at_first)
    assert resumes == [False, False, True]


async def test_who_lost_the_lease_cannot_store_an_answer(shop: Shop, key: str):
    async def overtaken(_: Any, call: Call) -> Order:
        async with shop.database.unit_of_work() as work:
            work.add(Thing(id=call.operation_id))
        await shop.leases_end()
        await shop.call(key)  # a retry, which takes over and answers
        return Order(id="late")

    answer, _ = await shop.call(key, handler=overtaken)
    assert answer.id == shop.executions[0]


async def test_who_lost_the_lease_commits_nothing_more(shop: Shop, key: str):
    async def overtaken(_: Any, call: Call) -> Order:
        await shop.leases_end()
        await shop.call(key)  # a retry, which takes over and answers
        async with shop.database.unit_of_work() as work:
            work.add(Thing(name="late"))
        return Order(id="late")

    answer, call = await shop.call(key, handler=overtaken)
    assert answer.id == shop.executions[0]
    assert list(call.headers) == [("idempotent-replayed", "true")]
    assert await scalar(shop.database, "SELECT count(*) FROM things WHERE name = 'late'") == 0


async def test_who_lost_the_lease_stores_no_answer_with_its_effects(shop: Shop, key: str):
    inside, go_on = asyncio.Event(), asyncio.Event()

    async def overtaken(_: Any, call: Call) -> Order:
        async with shop.database.unit_of_work() as work:
            work.add(Thing(name="late"))
            inside.set()
            await go_on.wait()
            return work.answer(Order(id="late"))

    async def still_at_it(request: Any, call: Call) -> Order:
        go_on.set()
        await first
        return await shop.place(request, call)

    first = asyncio.create_task(shop.call(key, handler=overtaken))
    first.add_done_callback(lambda task: task.exception())
    await inside.wait()
    await shop.leases_end()
    with pytest.raises(Aborted, match="IN_FLIGHT"):
        await shop.call(key, handler=still_at_it)
    assert await scalar(shop.database, "SELECT count(*) FROM things") == 0
    assert (await shop.call(key))[0].id == shop.executions[0]


async def test_who_lost_the_lease_does_not_free_the_key_of_who_has_it(
    shop: Shop, key: str, monkeypatch: pytest.MonkeyPatch
):
    async def overtaken(_: Any, call: Call) -> Order:
        await shop.leases_end()
        second = asyncio.create_task(shop.call(key, handler=slow))
        second.add_done_callback(lambda task: task.exception())
        tasks.append(second)
        await inside.wait()
        raise Unavailable("DEPENDENCY_UNAVAILABLE", "x")

    async def slow(request: Any, call: Call) -> Order:
        inside.set()
        await go_on.wait()
        return await shop.place(request, call)

    tasks: list[asyncio.Task[Any]] = []
    inside, go_on = asyncio.Event(), asyncio.Event()
    with pytest.raises(Unavailable):
        await shop.call(key, handler=overtaken)
    await asyncio.gather(*shop.stage._releases)
    with pytest.raises(Aborted, match="IN_FLIGHT"):
        await shop.call(key)
    go_on.set()
    assert (await tasks[0])[0].id == shop.executions[0]
