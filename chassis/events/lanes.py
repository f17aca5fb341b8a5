"""Lanes: the deliveries that a consumer has in hand, those of one aggregate behind each other."""

import asyncio
from collections import deque
from collections.abc import Iterator

from chassis.events.delivery import Aggregate, Delivery


class Lanes:
    """Hands out one delivery of each aggregate at a time, in the order of their arrival.

    `fresh` are those that come for the first time, `again` those that came before: they are treated apart.
    """

    def __init__(self, bound: int) -> None:
        self._bound = bound
        self._count = 0
        self._lanes: dict[Aggregate, deque[Delivery]] = {}
        self._fresh: asyncio.Queue[Delivery | None] = asyncio.Queue()
        self._again: asyncio.Queue[Delivery | None] = asyncio.Queue()
        self._left = asyncio.Event()

    def __iter__(self) -> Iterator[Delivery]:
        """Everything in hand."""
        return (delivery for lane in tuple(self._lanes.values()) for delivery in tuple(lane))

    async def room(self) -> int:
        """How many more deliveries may be taken in hand; waits until it is one at least."""
        while (room := self._bound - self._count) <= 0:
            self._left.clear()
            await self._left.wait()
        return room

    def put(self, delivery: Delivery) -> None:
        """Takes a delivery in hand; its turn comes when those of its aggregate before it are done."""
        lane = self._lanes.setdefault(delivery.aggregate, deque())
        lane.append(delivery)
        self._count += 1
        if len(lane) == 1:
            self._offer(delivery)

    def done(self, delivery: Delivery) -> None:
        """It is answered: the next of its aggregate has its turn."""
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
        """Fresh deliveries of different aggregates, as many as are there; waits for one. Empty: the end."""
        batch = []
        delivery = await self._fresh.get()
        while delivery is not None:
            batch.append(delivery)
            if len(batch) == most or self._fresh.empty():
                return batch
            delivery = self._fresh.get_nowait()
        self._fresh.put_nowait(None)  # the others end as well
        return batch

    async def again(self) -> Delivery | None:
        """A delivery that came before; waits for one. None: the end."""
        delivery = await self._again.get()
        if delivery is None:
            self._again.put_nowait(None)
        return delivery

    def end(self) -> None:
        """Has those end who wait for deliveries."""
        self._fresh.put_nowait(None)
        self._again.put_nowait(None)
