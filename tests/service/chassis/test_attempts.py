"""What a handler does is an attempt, an outage is none, and one event's trouble is its own."""

import asyncio
from dataclasses import replace
from typing import Any

import grpc
import nats.errors
import psycopg
import psycopg_pool
import pytest
from google.protobuf.message import DecodeError
from protomesh.ordering.v1.ordering_events_pb2 import OrderCancelled
from sqlalchemy import text

from chassis.core import errors
from chassis.data import Database, UnitOfWork
from chassis.events import Broker, Policy
from tests.patience import eventually
from tests.service.chassis.conftest import running
from tests.service.chassis.scripted import QUICK, Scripted, handled, nothing_counted
from tests.service.chassis.subscriber import letters, publish
from tests.service.chassis.things import happened

pytestmark = pytest.mark.usefixtures("relay", "short_pauses")


def unavailable(code: grpc.StatusCode) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), "not now")


def caused(error: Exception) -> Exception:
    wrapped = RuntimeError("a client library's own")
    wrapped.__cause__ = error
    return wrapped


@pytest.mark.parametrize(
    "outage",
    [
        psycopg_pool.PoolTimeout("no connection"),
        psycopg.OperationalError("the connection is lost"),
        psycopg.errors.AdminShutdown("terminating"),
        psycopg.errors.TooManyConnections("sorry, too many clients"),
        nats.errors.NoServersError(),
        ConnectionResetError(),
        unavailable(grpc.StatusCode.UNAVAILABLE),
        unavailable(grpc.StatusCode.DEADLINE_EXCEEDED),
        unavailable(grpc.StatusCode.RESOURCE_EXHAUSTED),
        errors.unavailable(),
        caused(ConnectionRefusedError()),
        ExceptionGroup("tasks", [unavailable(grpc.StatusCode.UNAVAILABLE)]),
    ],
    ids=repr,
)
async def test_however_often_an_outage_interrupts_a_handler_its_event_is_no_nearer_to_the_dead_letters(
    database: Database, broker: Broker, outage: Exception
):
    async def act(event: OrderCancelled, _: UnitOfWork) -> None:
        if subscriber.calls[event.reason] <= 4 * QUICK.attempts:
            raise outage

    subscriber = Scripted(database, broker, act)
    async with running(subscriber.consumer):
        await publish(database, happened("one", "interrupted"), happened("one", "behind"))
        await handled(database, "interrupted", "behind")
        await nothing_counted(database, broker, subscriber)


async def test_an_outage_in_a_later_attempt_is_none_either(database: Database, broker: Broker):
    """Later attempts are on record before they begin, so that one which kills its process counts."""

    async def act(event: OrderCancelled, _: UnitOfWork) -> None:
        if subscriber.calls[event.reason] == 1:
            raise ZeroDivisionError
        if subscriber.calls[event.reason] <= 4 * policy.attempts:
            raise ConnectionResetError

    policy = replace(QUICK, attempts=3)
    subscriber = Scripted(database, broker, act, policy)
    async with running(subscriber.consumer):
        await publish(database, happened("one", "interrupted"))
        await handled(database, "interrupted")
        assert await letters(broker, subscriber.name) == []


@pytest.mark.parametrize("error", [DecodeError("of a message within"), psycopg.errors.QueryCanceled("slow")])
async def test_what_goes_wrong_in_the_handler_is_an_attempt_and_no_poison(
    database: Database, broker: Broker, error: Exception
):
    async def act(event: OrderCancelled, _: UnitOfWork) -> None:
        if subscriber.calls[event.reason] == 1:
            raise error

    subscriber = Scripted(database, broker, act)
    async with running(subscriber.consumer):
        await publish(database, happened(reason="moody"))
        await handled(database, "moody")
        await nothing_counted(database, broker, subscriber)


async def test_an_event_that_hangs_is_given_up_and_holds_up_nobody_else(
    database: Database, broker: Broker, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("chassis.events.processor._LONGEST_BATCH_SECONDS", 0.2)

    async def act(event: OrderCancelled, _: UnitOfWork) -> None:
        if event.reason == "hangs":
            await asyncio.Event().wait()

    subscriber = Scripted(database, broker, act, Policy(2, (0.01,), handle_within=0.2, drain_within=0))
    async with running(subscriber.consumer):
        await publish(
            database, happened("sick", "hangs"), happened("sick", "behind"), happened(reason="well")
        )
        await handled(database, "well", "behind")
    [letter] = await letters(broker, subscriber.name)
    assert (letter.aggregate_id, letter.error) == ("sick", "TimeoutError:")


async def test_events_that_cannot_be_committed_together_are_handled_one_by_one(
    database: Database, broker: Broker
):
    async def act(event: OrderCancelled, work: UnitOfWork) -> None:
        if subscriber.calls.total() == 1:
            await eventually(the_others_wait)
        elif subscriber.calls.total() <= 3:
            table = "late (id int UNIQUE DEFERRABLE INITIALLY DEFERRED)"
            await work.execute(text(f"CREATE TEMPORARY TABLE IF NOT EXISTS {table} ON COMMIT DROP"))
            await work.execute(text("INSERT INTO late VALUES (1)"))

    async def the_others_wait() -> bool:
        info = await (await broker.ready()).consumer_info("ORDERING", subscriber.name.replace(".", "-"))
        return info.num_ack_pending == 3

    subscriber = Scripted(database, broker, act, replace(QUICK, concurrency=1, acknowledge_within=60))
    async with running(subscriber.consumer):
        await publish(database, *(happened(reason=reason) for reason in ("first", "one", "other")))
        await handled(database, "first", "one", "other")
        await nothing_counted(database, broker, subscriber)


async def test_a_handler_that_cannot_be_stopped_in_time_is_held_up_by_an_outage(
    database: Database, broker: Broker, monkeypatch: pytest.MonkeyPatch
):
    """Its time was up, and its statement could not be cancelled: that says nothing about the event."""
    monkeypatch.setattr("chassis.events.transaction._CANCEL_SECONDS", 0.05)

    async def act(event: OrderCancelled, _: UnitOfWork) -> None:
        if subscriber.calls[event.reason] <= 2 * QUICK.attempts:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                await asyncio.sleep(0.1)
                raise

    subscriber = Scripted(database, broker, act, replace(QUICK, handle_within=0.05))
    async with running(subscriber.consumer):
        await publish(database, happened("one", "held up"))
        await handled(database, "held up")
        await nothing_counted(database, broker, subscriber)


async def test_an_event_that_takes_long_is_kept_from_being_delivered_again(
    database: Database, broker: Broker
):
    alive, kept = 0, asyncio.Event()

    async def acknowledged(message: Any) -> None:
        nonlocal alive
        alive += message.data == b"+WPI"
        if alive >= 4:
            kept.set()

    async def act(event: OrderCancelled, _: UnitOfWork) -> None:
        await kept.wait()

    subscriber = Scripted(database, broker, act, Policy(acknowledge_within=1))
    await broker.client.subscribe("$JS.ACK.ORDERING.>", cb=acknowledged)
    async with running(subscriber.consumer), asyncio.timeout(20):
        await publish(database, happened(reason="slow"))
        await kept.wait()
        await handled(database, "slow")
    assert subscriber.calls == {"slow": 1}


async def test_a_consumer_takes_no_more_in_hand_than_it_has_room_for(database: Database, broker: Broker):
    busy, go_on = asyncio.Event(), asyncio.Event()

    async def act(event: OrderCancelled, _: UnitOfWork) -> None:
        busy.set()
        await go_on.wait()

    subscriber = Scripted(database, broker, act, Policy(concurrency=1, batch=5, acknowledge_within=30))
    reasons = [str(number) for number in range(40)]
    await publish(database, *(happened(reason=reason) for reason in reasons))

    async def taken() -> int:
        info = await (await broker.ready()).consumer_info("ORDERING", subscriber.name.replace(".", "-"))
        return info.num_ack_pending or 0

    async with running(subscriber.consumer):
        await asyncio.wait_for(busy.wait(), 15)
        await eventually(taken)
        # Had it asked for more, they would have come along.
        await broker.client.flush()
        assert await taken() <= 10
        go_on.set()
        await handled(database, *reasons)
