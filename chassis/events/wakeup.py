"""Wakes the relay of a database when a transaction has written events, in whichever process.

PostgreSQL's NOTIFY would do as well, but makes all transactions that use it, of all databases of a server, commit one
after the other.
"""

import asyncio
import contextlib

import nats.errors

from chassis.core.tasks import checkpoint
from chassis.data.database import Database
from chassis.events.broker import Broker

# Many commits within this time are one message.
_PAUSE_SECONDS = 0.01


def _subject(database: Database) -> str:
    return f"_mesh.outbox.{database.name}"


async def hear(database: Database, broker: Broker) -> None:
    """Has `database.events_written` set when another process has committed events."""

    async def written(_: object) -> None:
        database.events_written.set()

    await broker.ready()
    # Outlives lost connections; what is missed meanwhile, polling finds.
    await broker.client.subscribe(_subject(database), cb=written)


async def announce(database: Database, broker: Broker) -> None:
    """Tells the relays of other processes what this one commits, until cancelled. For a process without a relay."""
    await broker.ready()
    while True:
        checkpoint()
        await database.events_written.wait()
        database.events_written.clear()
        # Without NATS a relay could do nothing either.
        with contextlib.suppress(nats.errors.Error):
            await broker.client.publish(_subject(database))
        await asyncio.sleep(_PAUSE_SECONDS)
