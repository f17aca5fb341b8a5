"""Wakes those who watch an order when it changes, whichever process changed it: PostgreSQL tells them all."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from uuid import UUID

import psycopg

from chassis.data import Database
from chassis.rpc import Call

CHANNEL = "order_changed"
# A notification is lost while the connection is down: whoever waits looks for himself this often.
_LOOK_SECONDS = 5.0
# A stream ends by itself before its deadline, so that a client sees an end and not a failure.
_MARGIN_SECONDS = 1.0


class Changes:
    """One connection of the process that listens, and the watchers that it wakes."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._watchers: defaultdict[str, set[asyncio.Event]] = defaultdict(set)

    async def listen(self) -> None:
        """For ever wakes the watchers of what changed; a broken connection is opened again."""
        while True:
            try:
                await self._listen()
            except psycopg.OperationalError:
                await asyncio.sleep(1.0)

    async def _listen(self) -> None:
        async with await self._database.connect() as connection:
            await connection.execute(f"LISTEN {CHANNEL}")
            async for notification in connection.notifies():
                for changed in self._watchers.get(notification.payload, ()):
                    changed.set()

    async def of(self, order_id: UUID, until: Call) -> AsyncIterator[None]:
        """Yields at once, then whenever the order may have changed, to shortly before the deadline."""
        with self._watching(str(order_id)) as changed:
            while (remaining := until.remaining() - _MARGIN_SECONDS) > 0:
                changed.clear()
                yield
                await _wait(changed, min(remaining, _LOOK_SECONDS))

    @contextmanager
    def _watching(self, order_id: str) -> Iterator[asyncio.Event]:
        changed = asyncio.Event()
        self._watchers[order_id].add(changed)
        try:
            yield changed
        finally:
            self._watchers[order_id].discard(changed)
            if not self._watchers[order_id]:
                del self._watchers[order_id]


async def _wait(changed: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await changed.wait()
    except TimeoutError:
        pass
