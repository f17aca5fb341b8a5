"""A service process that one of its events kills: `python -m tests.service.chassis.deadly DATABASE NATS CONSUMER`."""

import asyncio
import os
import sys

from protomesh.ordering.v1.ordering_events_pb2 import OrderCancelled

from chassis.data import Database, UnitOfWork
from chassis.events import Broker, Consumer, Envelope, Policy
from tests.service.chassis.things import Thing

POLICY = Policy(attempts=3, backoff=(0.05,), acknowledge_within=0.3)


async def _handle(event: OrderCancelled, _: Envelope, work: UnitOfWork) -> None:
    if event.reason == "deadly":
        os._exit(7)
    work.add(Thing(name=event.reason))


async def _main(database_url: str, nats_url: str, name: str) -> None:
    async with Database(database_url) as database, Broker(nats_url) as broker:
        await Consumer(database, broker, name=name, handlers={OrderCancelled: _handle}, policy=POLICY).run()


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
