"""Answers under an idempotency key: stored with their transaction, replayed with their headers."""

from contextlib import suppress
from typing import Any

import psycopg
import pytest
from protomesh.ordering.v1.order_pb2 import Order
from sqlalchemy import text

from chassis.core import FailedPrecondition, NotFound, Unavailable
from chassis.data import UnitOfWork
from chassis.rpc import Call
from tests.service.chassis.keyed_shop import Shop
from tests.service.chassis.things import Thing, happened, scalar


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


async def test_the_events_of_a_transaction_and_the_answer_are_stored_together(shop: Shop, key: str):
    async def place(_: Any, call: Call) -> Order:
        async with shop.database.unit_of_work() as work:
            work.publish(happened(call.operation_id, reason="first"), version=3)
            work.publish(happened(call.operation_id, reason="second"), version=4)
            return work.answer(Order(id=call.operation_id))

    answer, _ = await shop.call(key, handler=place)
    again, _ = await shop.call(key, handler=place)
    assert again == answer
    events = "SELECT string_agg(aggregate_id || ' ' || aggregate_version, ', ' ORDER BY position) FROM outbox"
    assert await scalar(shop.database, events) == f"{answer.id} 3, {answer.id} 4"


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
