"""Idempotency keys: one execution, one answer, whatever happens in between."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import psycopg
import pytest
from protomesh.ordering.v1 import order_service_pb2
from protomesh.ordering.v1.order_pb2 import Order
from psycopg_pool import PoolTimeout
from sqlalchemy import text

from chassis import contract
from chassis.core import Aborted, FailedPrecondition, InvalidArgument, NotFound, PermissionDenied, Unavailable
from chassis.data import Database, UnitOfWork, idempotency_keys
from chassis.rpc import Call, Caller, current_call
from chassis.rpc.stages import Idempotency
from tests.service.chassis.things import Thing, happened, scalar

PLACE_ORDER = contract.method_at("/protomesh.ordering.v1.OrderService/PlaceOrder")
REQUEST = order_service_pb2.PlaceOrderRequest(shipping_note="a")
OTHER_REQUEST = order_service_pb2.PlaceOrderRequest(shipping_note="b")

Handler = Callable[[Any, Call], Awaitable[Order]]


class Shop:
    """A service with one RPC, called through the stage as the pipeline does."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.stage = Idempotency(database)
        self.executions: list[str] = []

    async def place(self, request: Any, call: Call) -> Order:
        """A handler with one unit of work, resumable: it makes what carries the operation's id unless it is there."""
        self.executions.append(call.operation_id)
        async with self.database.unit_of_work() as work:
            if await work.get(Thing, call.operation_id) is None:
                work.add(Thing(id=call.operation_id, name=request.shipping_note))
                work.publish(happened(call.operation_id))
        return Order(id=call.operation_id)

    def dies(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Has a failure leave what the death of its process leaves: a key that nobody frees."""
        monkeypatch.setattr(idempotency_keys, "release", _never)

    async def call(
        self, key: str, request: Any = REQUEST, handler: Handler | None = None, user: str = "buyer"
    ) -> tuple[Order, Call]:
        call = self.new_call(key, user)
        return await self.run(call, request, handler), call

    def new_call(self, key: str, user: str = "buyer") -> Call:
        call = Call(PLACE_ORDER, {"idempotency-key": key})
        call.caller = Caller(user_id=user)
        call.deadline = asyncio.get_running_loop().time() + 2
        return call

    async def run(self, call: Call, request: Any = REQUEST, handler: Handler | None = None) -> Order:
        """In a task of its own, as each call of gRPC has one."""

        async def answer() -> Order:
            current_call.set(call)
            return await self.stage(handler or self.place, request, call)

        return await asyncio.create_task(answer())

    async def leases_end(self) -> None:
        await self._change("locked_until = now() - interval '1 s'")

    async def keeping_time_ends(self) -> None:
        await self._change("expires_at = now()")

    async def _change(self, assignment: str) -> None:
        async with self.database.connection() as connection:
            await connection.execute(f"UPDATE idempotency_keys SET {assignment}")


async def _never(*_: object) -> None:
    await asyncio.Event().wait()


@pytest.fixture
async def shop(database: Database) -> Shop:
    return Shop(database)


@pytest.fixture
def key() -> str:
    return secrets.token_hex(16)


async def test_a_repeated_call_gets_the_same_bytes_and_is_told_so(shop: Shop, key: str):
    first, call = await shop.call(key)
    assert not call.headers
    again, call = await shop.call(key)
    assert again.SerializeToString() == first.SerializeToString()
    assert list(call.headers) == [("idempotent-replayed", "true")]
    assert len(shop.executions) == 1


async def test_fifty_calls_at_once_execute_once(shop: Shop, key: str):
    results = await asyncio.gather(*(shop.call(key) for _ in range(50)), return_exceptions=True)
    answers = {result[0].id for result in results if isinstance(result, tuple)}
    # On a busy machine, a connection may not come in time.
    refusals: list[Any] = [result for result in results if not isinstance(result, tuple | PoolTimeout)]
    assert len(answers) == 1
    assert {(type(error), error.reason) for error in refusals} <= {(Aborted, "IDEMPOTENCY_KEY_IN_FLIGHT")}
    assert all(error.retry_after == 1 for error in refusals)
    assert await scalar(shop.database, "SELECT count(*) FROM things") == 1
    assert await scalar(shop.database, "SELECT count(*) FROM outbox") == 1


async def test_a_duplicate_is_turned_away_at_once_while_the_first_is_in_its_transaction(shop: Shop, key: str):
    inside, go_on = asyncio.Event(), asyncio.Event()

    async def slow(request: Any, call: Call) -> Order:
        async with shop.database.unit_of_work() as work:
            work.add(Thing(id=call.operation_id))
            inside.set()
            await go_on.wait()
        return Order(id=call.operation_id)

    first = asyncio.create_task(shop.call(key, handler=slow))
    await inside.wait()
    begin = asyncio.get_running_loop().time()
    with pytest.raises(Aborted, match="IN_FLIGHT"):
        await shop.call(key)
    assert asyncio.get_running_loop().time() - begin < 0.5
    go_on.set()
    answer, _ = await first
    assert (await shop.call(key))[0] == answer


async def test_a_key_with_another_request_is_refused(shop: Shop, key: str):
    await shop.call(key)
    with pytest.raises(InvalidArgument, match="IDEMPOTENCY_KEY_REUSED"):
        await shop.call(key, OTHER_REQUEST)


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


async def test_a_key_belongs_to_its_caller(shop: Shop, key: str):
    mine, _ = await shop.call(key, user="me")
    yours, call = await shop.call(key, user="you")
    assert mine.id != yours.id
    assert not call.headers


@pytest.mark.parametrize("bad", ["", "short", "x" * 256, "é" * 20, "tab\tin the middle of it", "a\x7f" * 10])
async def test_a_key_must_be_printable_ascii_of_a_fair_length(shop: Shop, bad: str):
    with pytest.raises(InvalidArgument, match="IDEMPOTENCY_KEY_REQUIRED"):
        await shop.call(bad)


async def test_a_deterministic_refusal_is_the_key_s_answer(shop: Shop, key: str):
    async def refuse(_: Any, call: Call) -> Order:
        shop.executions.append(call.operation_id)
        raise FailedPrecondition("OUT_OF_STOCK", "Only 3 are left.", metadata={"available": "3"})

    for _ in range(2):
        with pytest.raises(FailedPrecondition) as refused:
            await shop.call(key, handler=refuse)
        assert refused.value.metadata == {"available": "3"}
        assert refused.value.message == "Only 3 are left."
    assert len(shop.executions) == 1


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


async def test_a_handler_without_a_unit_of_work_is_stored_too(shop: Shop, key: str):
    async def answer(_: Any, call: Call) -> Order:
        shop.executions.append(call.operation_id)
        return Order(id=call.operation_id)

    assert (await shop.call(key, handler=answer))[0] == (await shop.call(key, handler=answer))[0]
    assert len(shop.executions) == 1


async def test_an_answer_stored_in_the_transaction_survives_a_crash_right_after_it(shop: Shop, key: str):
    async def place(_: Any, call: Call) -> Order:
        shop.executions.append(call.operation_id)
        async with shop.database.unit_of_work() as work:
            work.add(Thing(id=call.operation_id))
            answer = work.answer(Order(id=call.operation_id))
        if len(shop.executions) == 1:
            raise ZeroDivisionError
        return answer

    with pytest.raises(ZeroDivisionError):
        await shop.call(key, handler=place)
    answer, call = await shop.call(key, handler=place)
    assert list(call.headers) == [("idempotent-replayed", "true")]
    assert [answer.id] == shop.executions


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


async def fail_inside(work: UnitOfWork) -> None:
    raise ZeroDivisionError


async def fail_at_the_commit(work: UnitOfWork) -> None:
    await work.execute(text("CREATE TEMPORARY TABLE late (id int UNIQUE DEFERRABLE INITIALLY DEFERRED)"))
    await work.execute(text("INSERT INTO late VALUES (1), (1)"))


@pytest.mark.parametrize("fail", [fail_inside, fail_at_the_commit])
async def test_an_answer_whose_transaction_was_rolled_back_is_no_answer(shop: Shop, key: str, fail: Any):
    async def roll_back(_: Any, call: Call) -> Order:
        shop.executions.append(call.operation_id)
        with suppress(ZeroDivisionError, psycopg.IntegrityError):
            async with shop.database.unit_of_work() as work:
                work.answer(Order(id=call.operation_id))
                await fail(work)
        raise Unavailable("DEPENDENCY_UNAVAILABLE", "x")

    with pytest.raises(Unavailable):
        await shop.call(key, handler=roll_back)
    answer, call = await shop.call(key)
    assert not call.headers
    assert shop.executions == [answer.id, answer.id]


@pytest.mark.parametrize("fail", [fail_inside, fail_at_the_commit])
async def test_an_answer_that_was_rolled_back_is_stored_when_the_handler_gives_it_all_the_same(
    shop: Shop, key: str, fail: Any
):
    async def go_on_without(_: Any, call: Call) -> Order:
        shop.executions.append(call.operation_id)
        answer = Order(id=call.operation_id)
        with suppress(ZeroDivisionError, psycopg.IntegrityError):
            async with shop.database.unit_of_work() as work:
                work.answer(answer)
                await fail(work)
        return answer

    first, _ = await shop.call(key, handler=go_on_without)
    again, call = await shop.call(key, handler=go_on_without)
    assert first == again
    assert list(call.headers) == [("idempotent-replayed", "true")]
    assert len(shop.executions) == 1


async def test_an_answer_counts_whose_commit_was_not_heard_of(
    shop: Shop, key: str, monkeypatch: pytest.MonkeyPatch
):
    commit = psycopg.AsyncConnection.commit

    async def cut_off(connection: psycopg.AsyncConnection[Any]) -> None:
        await commit(connection)
        raise psycopg.OperationalError

    async def place(_: Any, call: Call) -> Order:
        try:
            async with shop.database.unit_of_work() as work:
                work.answer(Order(id=call.operation_id))
        except psycopg.OperationalError:
            raise NotFound("ORDER_NOT_FOUND", "No such order.") from None
        raise AssertionError

    monkeypatch.setattr(psycopg.AsyncConnection, "commit", cut_off)
    answer, call = await shop.call(key, handler=place)
    assert answer.id
    assert list(call.headers) == [("idempotent-replayed", "true")]


async def test_a_work_that_goes_on_after_the_answer_is_no_other_call_s(shop: Shop, key: str):
    async def answer_first(_: Any, call: Call) -> Order:
        async with shop.database.unit_of_work() as work:
            answer = work.answer(Order(id=call.operation_id))
        async with shop.database.unit_of_work() as work:
            work.add(Thing(name="after"))
        return answer

    await shop.call(key, handler=answer_first)
    assert await scalar(shop.database, "SELECT count(*) FROM things WHERE name = 'after'") == 1


@pytest.mark.parametrize("moment", ["before the commit", "after the commit", "without a unit of work"])
async def test_a_replay_has_the_headers_that_the_handler_set(shop: Shop, key: str, moment: str):
    async def place(_: Any, call: Call) -> Order:
        answer = Order(id=call.operation_id)
        if moment != "after the commit":
            set_headers(call)
        if moment != "without a unit of work":
            async with shop.database.unit_of_work() as work:
                work.answer(answer)
        if moment == "after the commit":
            set_headers(call)
        return answer

    def set_headers(call: Call) -> None:
        call.set_header("etag", '"1"')
        call.set_header("location", f"/v1/orders/{call.operation_id}")

    _, first = await shop.call(key, handler=place)
    _, again = await shop.call(key, handler=place)
    assert list(again.headers) == [*first.headers, ("idempotent-replayed", "true")]
    assert dict(again.headers)["etag"] == '"1"'


async def test_a_replayed_refusal_has_its_headers_too(shop: Shop, key: str):
    async def refuse(_: Any, call: Call) -> Order:
        call.set_header("x-stock", "3")
        raise FailedPrecondition("OUT_OF_STOCK", "Only 3 are left.")

    for _ in range(2):
        call = shop.new_call(key)
        with pytest.raises(FailedPrecondition):
            await shop.run(call, handler=refuse)
    assert list(call.headers) == [("x-stock", "3"), ("idempotent-replayed", "true")]


@pytest.mark.parametrize("purged", [False, True])
async def test_a_key_that_is_used_anew_after_its_time_names_another_operation(
    shop: Shop, key: str, purged: bool
):
    first, _ = await shop.call(key)
    await shop.keeping_time_ends()
    if purged:
        await idempotency_keys.purge(shop.database)
    second, call = await shop.call(key)
    assert first.id != second.id
    assert not call.headers


async def test_a_new_key_costs_one_statement_before_the_handler(
    shop: Shop, key: str, monkeypatch: pytest.MonkeyPatch
):
    statements: list[str] = []
    execute = psycopg.AsyncCursor.execute

    async def counted(self: Any, query: Any, *args: Any, **kwargs: Any) -> Any:
        statements.append(str(query))
        return await execute(self, query, *args, **kwargs)

    async def count(_: Any, call: Call) -> Order:
        assert len(statements) == 1
        return Order(id=call.operation_id)

    monkeypatch.setattr(psycopg.AsyncCursor, "execute", counted)
    await shop.call(key, handler=count)


async def test_keys_are_forgotten_after_their_time(shop: Shop, key: str):
    await shop.call(key)
    await shop.keeping_time_ends()
    await shop.call(key, OTHER_REQUEST)
    assert len(shop.executions) == 2
    await shop.keeping_time_ends()
    assert await idempotency_keys.purge(shop.database) == 1


async def test_a_database_that_fails_after_the_commit_does_not_fail_the_call(
    shop: Shop, key: str, monkeypatch: pytest.MonkeyPatch
):
    async def place(request: Any, call: Call) -> Order:
        answer = await shop.place(request, call)
        monkeypatch.setattr(shop.database, "connection", _unreachable)
        return answer

    answer, _ = await shop.call(key, handler=place)
    assert [answer.id] == shop.executions


def _unreachable() -> Any:
    raise psycopg.OperationalError
