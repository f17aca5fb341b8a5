"""Lanes: the deliveries that a consumer holds, queued by aggregate."""

import asyncio
from collections import deque
from collections.abc import Iterator

from chassis.events.delivery import Aggregate, Delivery


class Lanes:
    """Queues that hand out one delivery of each aggregate at a time, in the order of arrival.

    `fresh` returns deliveries that come for the first time, `again` those that came before; they are kept apart.
    """

    def __init__(self, bound: int) -> None:
        self._bound = bound
        self._count = 0
        self._lanes: dict[Aggregate, deque[Delivery]] = {}
        self._fresh: asyncio.Queue[Delivery | None] = asyncio.Queue()
        self._again: asyncio.Queue[Delivery | None] = asyncio.Queue()
        self._left = asyncio.Event()

    def __iter__(self) -> Iterator[Delivery]:
        """Iterates over all deliveries that are held."""
        return (delivery for lane in tuple(self._lanes.values()) for delivery in tuple(lane))

    async def room(self) -> int:
        """Waits until at least one more delivery fits; returns how many do."""
        while (room := self._bound - self._count) <= 0:
            self._left.clear()
            await self._left.wait()
        return room

    def put(self, delivery: Delivery) -> None:
        """Adds a delivery; its turn comes when the earlier ones of its aggregate are done."""
        lane = self._lanes.setdefault(delivery.aggregate, deque())
        lane.append(delivery)
        self._count += 1
        if len(lane) == 1:
            self._offer(delivery)

    def done(self, delivery: Delivery) -> None:
        """Removes a finished delivery; the next one of its aggregate gets its turn."""
        lane = self._lanes[delivery.aggregate]
        lane.popleft()
        if lane:
            self._offer(lane[0])
        else:
            del self._lanes[delivery.aggregate]
        self._count -= 1
        self._left.set()

    def _offer(self, delivery: Delivery) -> None:
        (self._fresh if delivery.fresh else self._again).put_nowait(delivery)

    async def fresh(self, most: int) -> list[Delivery]:
        """Waits for fresh deliveries of different aggregates; returns up to `most` of them, none at the end."""
        batch = []
        delivery = await self._fresh.get()
        while delivery is not None:
            batch.append(delivery)
            if len(batch) == most or self._fresh.empty():
                return batch
            delivery = self._fresh.get_nowait()
        self._fresh.put_nowait(None)  # so that the other waiting tasks end as well
        return batch

    async def again(self) -> Delivery | None:
        """Waits for a delivery that came before and returns it; None at the end."""
        delivery = await self._again.get()
        if delivery is None:
            self._again.put_nowait(None)
        return delivery

    def end(self) -> None:
        """Ends the tasks that wait for deliveries."""
        self._fresh.put_nowait(None)
        self._again.put_nowait(None)
