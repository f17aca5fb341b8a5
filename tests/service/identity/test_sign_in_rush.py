"""A rush on registration, login or change of passwords: bounded, refused at once, and no trouble for the others."""

import asyncio
import itertools
import pathlib
import threading
from collections.abc import AsyncIterator, Awaitable

import grpc
import pytest
from protomesh.identity.v1.auth_service_pb2 import ChangePasswordRequest, RegisterUserRequest

from chassis.core import ResourceExhausted, errors
from services.identity import passwords
from services.identity.hashing import HashingPool
from tests.service.identity.accounts import PASSWORD, new_account
from tests.service.identity.stand import Identity, came_from, running_identity

THREADS, QUEUE = 1, 4
RUSHING, OTHER = "198.51.100.66", "198.51.100.1"


@pytest.fixture
async def identity(migrated_url: str, tmp_path: pathlib.Path) -> AsyncIterator[Identity]:
    async with running_identity(
        migrated_url, tmp_path, registration_threads=THREADS, password_queue=QUEUE
    ) as running:
        yield running


@pytest.fixture
async def stuck(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[threading.Event]:
    """Hashes for new passwords take until the event is set; checks of those that there are do not."""
    goes_on, hash_ = threading.Event(), passwords.HASHER.hash

    class Stuck:
        def __getattr__(self, name: str) -> object:
            return getattr(passwords_hasher, name)

        def hash(self, password: str) -> str:
            goes_on.wait(30)
            return hash_(password)

    passwords_hasher = passwords.HASHER
    monkeypatch.setattr(passwords, "HASHER", Stuck())
    yield goes_on
    goes_on.set()


async def outcome(call: Awaitable[object]) -> grpc.aio.AioRpcError | None:
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error
    return None


def register(identity: Identity, address: str) -> "asyncio.Task[grpc.aio.AioRpcError | None]":
    request = RegisterUserRequest(**new_account())
    call = identity.auth.RegisterUser(request, metadata=came_from(address))
    return asyncio.create_task(outcome(call))


async def test_registrations_that_do_not_fit_are_refused_while_those_before_them_wait(
    identity: Identity, stuck: threading.Event
) -> None:
    rush = [register(identity, f"198.51.100.{number}") for number in range(THREADS + QUEUE + 3)]
    for refused in itertools.islice(asyncio.as_completed(rush), 3):
        error = await refused
        assert error
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert errors.from_rpc(error).retry_after
    stuck.set()
    assert [error for error in await asyncio.gather(*rush) if error is None] == [None] * (THREADS + QUEUE)


async def test_a_rush_on_registration_leaves_logins_and_changes_of_passwords_alone(
    identity: Identity, stuck: threading.Event
) -> None:
    stuck.set()
    user = await identity.register(OTHER)
    stuck.clear()
    rush = [register(identity, RUSHING) for _ in range(20)]
    await asyncio.wait(rush, return_when=asyncio.FIRST_COMPLETED)
    session = await identity.sign_in(user.email, OTHER)
    wrong = ChangePasswordRequest(current_password="not this one", new_password=PASSWORD)
    error = await outcome(identity.auth.ChangePassword(wrong, metadata=(*session, *came_from(OTHER))))
    assert error
    assert errors.reason_of(error) == "PASSWORD_INCORRECT"
    assert not all(task.done() for task in rush)
    stuck.set()
    await asyncio.gather(*rush)


async def test_one_address_leaves_room_for_others(identity: Identity, stuck: threading.Event) -> None:
    fits = THREADS + QUEUE // 2
    rush = [register(identity, RUSHING) for _ in range(fits + 10)]
    for refused in itertools.islice(asyncio.as_completed(rush), 10):
        assert await refused
    other = register(identity, OTHER)
    stuck.set()
    assert await other is None
    assert [error for error in await asyncio.gather(*rush) if error is None] == [None] * fits


async def test_a_caller_who_leaves_gives_the_place_back_but_no_thread_that_still_hashes() -> None:
    pool, goes_on = HashingPool(1, 2), threading.Event()
    at_once: list[None] = []

    def hash_() -> None:
        at_once.append(None)
        assert len(at_once) == 1
        goes_on.wait(30)
        at_once.pop()

    async def turn() -> None:
        async with pool.turn(OTHER) as in_thread:
            await in_thread(hash_)

    leaving = asyncio.create_task(turn())
    await asyncio.sleep(0)
    leaving.cancel()
    following = asyncio.create_task(turn())
    await asyncio.sleep(0.05)
    goes_on.set()
    await following
    with pytest.raises(asyncio.CancelledError):
        await leaving
    await turn()


@pytest.mark.parametrize("address", ["2001:db8::1", "2001:db8::2"])
async def test_an_ipv6_network_is_one_address(address: str) -> None:
    pool = HashingPool(1, 0)
    async with pool.turn("2001:db8::ffff"):
        with pytest.raises(ResourceExhausted):
            async with pool.turn(address):
                pass
