"""Wake-ups of a database's relay when a transaction in any process has written events.

PostgreSQL's NOTIFY would work as well, but all transactions on a server that use it, in any database, commit one after
the other.
"""

import asyncio
import contextlib

import nats.errors

from chassis.core.tasks import checkpoint
from chassis.data.database import Database
from chassis.events.broker import Broker

# Commits within this time share one message.
_PAUSE_SECONDS = 0.01


def subject(name: str) -> str:
    """The subject of the wake-ups of a database, which has its service's name."""
    return f"_mesh.outbox.{name}"


async def hear(database: Database, broker: Broker) -> None:
    """Sets `database.events_written` when another process has committed events."""

    async def written(_: object) -> None:
        database.events_written.set()

    await broker.ready()
    # The subscription survives lost connections; polling finds what is missed meanwhile.
    await broker.client.subscribe(subject(database.name), cb=written)


async def announce(database: Database, broker: Broker) -> None:
    """Tells other processes' relays when this process commits events, until cancelled. For a process without one."""
    await broker.ready()
    while True:
        checkpoint()
        await database.events_written.wait()
        database.events_written.clear()
        # Without NATS, a relay could not do anything either.
        with contextlib.suppress(nats.errors.Error):
            await broker.client.publish(subject(database.name))
        await asyncio.sleep(_PAUSE_SECONDS)
