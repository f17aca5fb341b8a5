"""Idempotency keys: one execution, one answer, whatever happens in between."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from typing import Any

import psycopg
import pytest
from protomesh.ordering.v1 import order_service_pb2
from protomesh.ordering.v1.order_pb2 import Order

from chassis import contract
from chassis.core import Aborted, FailedPrecondition, InvalidArgument, PermissionDenied, Unavailable
from chassis.data import Database, idempotency_keys
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

    async def call(
        self, key: str, request: Any = REQUEST, handler: Handler | None = None, user: str = "buyer"
    ) -> tuple[Order, Call]:
        call = Call(PLACE_ORDER, {"idempotency-key": key})
        call.caller = Caller(user_id=user)
        call.deadline = asyncio.get_running_loop().time() + 2
        token = current_call.set(call)
        try:
            return await self.stage(handler or self.place, request, call), call
        finally:
            current_call.reset(token)


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
    refusals: list[Any] = [result for result in results if not isinstance(result, tuple)]
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

    # A process that dies frees nothing.
    monkeypatch.setattr(shop.stage, "_release_soon", lambda *_: None)
    with pytest.raises(Crash):
        await shop.call(key, handler=crash)
    with pytest.raises(Aborted, match="IN_FLIGHT"):
        await shop.call(key)
    async with shop.database.connection() as connection:
        await connection.execute("UPDATE idempotency_keys SET locked_until = now()")
    answer, _ = await shop.call(key)
    assert answer.id == shop.executions[0]
    assert await scalar(shop.database, "SELECT count(*) FROM things") == 1


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
        async with shop.database.connection() as connection:
            await connection.execute("UPDATE idempotency_keys SET locked_until = now() - interval '1 s'")
        await shop.call(key)  # a retry, which takes over and answers
        return Order(id="late")

    answer, _ = await shop.call(key, handler=overtaken)
    assert answer.id == shop.executions[0]


async def test_keys_are_forgotten_after_their_time(shop: Shop, key: str):
    await shop.call(key)
    async with shop.database.connection() as connection:
        await connection.execute("UPDATE idempotency_keys SET expires_at = now()")
    await shop.call(key, OTHER_REQUEST)
    assert len(shop.executions) == 2
    async with shop.database.connection() as connection:
        await connection.execute("UPDATE idempotency_keys SET expires_at = now()")
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
