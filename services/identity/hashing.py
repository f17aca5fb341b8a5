"""Threads that hash, with a bounded queue."""

import asyncio
import ipaddress
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from chassis.core import errors

Answer = TypeVar("Answer")
# Runs a function in the thread that was granted.
InThread = Callable[..., Awaitable[Any]]


class HashingPool:
    """`threads` that hash at once, and `queue` places to wait for them, half of which one address may take.

    Hashing takes tens of milliseconds of a core by design. Work that cannot start soon is refused at once: a call that
    waits past its deadline would take a turn from other calls for nothing.
    """

    def __init__(self, threads: int, queue: int) -> None:
        self._threads = asyncio.Semaphore(threads)
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="argon2")
        self._places = threads + queue
        self._places_of_one = threads + queue // 2
        self._taken: Counter[str] = Counter()

    @asynccontextmanager
    async def turn(self, address: str) -> AsyncIterator[InThread]:
        """Waits for a thread. Raises ResourceExhausted OVERLOADED when all places, or the address's, are taken."""
        network = network_of(address)
        if self._taken.total() >= self._places or self._taken[network] >= self._places_of_one:
            raise errors.overloaded()
        self._taken[network] += 1
        try:
            async with self._threads:
                yield self._in_thread
        finally:
            self._taken[network] -= 1
            if not self._taken[network]:
                del self._taken[network]

    async def _in_thread(self, function: Callable[..., Answer], *arguments: object) -> Answer:
        work = asyncio.get_running_loop().run_in_executor(self._executor, function, *arguments)
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            await asyncio.wait([work])  # the thread is busy until then
            raise


def network_of(address: str) -> str:
    """The addresses that one client controls: an IPv4 address, or an IPv6 /64 network."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    return address if parsed.version == 4 else str(ipaddress.ip_network((parsed, 64), strict=False))
