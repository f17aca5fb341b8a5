"""Idempotency keys: one execution and one answer for each key."""

import asyncio
from typing import Any

import psycopg
import pytest
from protomesh.ordering.v1.order_pb2 import Order
from psycopg_pool import PoolTimeout

from chassis.core import Aborted, FailedPrecondition, InvalidArgument
from chassis.data import idempotency_keys
from chassis.rpc import Call
from tests.service.chassis.keyed_shop import OTHER_REQUEST, Shop
from tests.service.chassis.things import Thing, scalar


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


async def test_a_key_belongs_to_its_caller(shop: Shop, key: str):
    mine, _ = await shop.call(key, user="me")
    yours, call = await shop.call(key, user="you")
    assert mine.id != yours.id
    assert not call.headers


@pytest.mark.parametrize("bad", ["", "short", "x" * 256, "é" * 20, "tab\tin the middle of it", "a\x7f" * 10])
async def test_a_key_must_be_printable_ascii_of_a_fair_length(shop: Shop, bad: str):
    with pytest.raises(InvalidArgument, match="IDEMPOTENCY_KEY_REQUIRED"):
        await shop.call(bad)


async def test_two_keys_are_none(shop: Shop, key: str):
    with pytest.raises(InvalidArgument, match="IDEMPOTENCY_KEY_REQUIRED"):
        await shop.run(shop.new_call("another key, not less valid", key))


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
