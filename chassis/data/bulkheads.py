"""Bulkheads: what uses a database shares no connections with what does another kind of work."""

from contextvars import ContextVar
from typing import Literal, get_args

from chassis.data.pool import Connection, Pool

# Calls are answered; background work (the relay, consumers, what a service runs beside its server) goes on meanwhile;
# keys are looked up and answers stored under them, which a rush of calls must not keep from it.
Bulkhead = Literal["calls", "background", "keys"]
BULKHEADS: tuple[Bulkhead, ...] = get_args(Bulkhead)

# Which one a task draws on. Background work says so once, and so do all tasks that it starts.
current: ContextVar[Bulkhead] = ContextVar("bulkhead", default="calls")


def shares(total: int) -> dict[Bulkhead, int]:
    """How a process's connections are divided: a quarter for the background, one for keys, and at least one each."""
    quarter = max(1, total // 4)
    return {"calls": max(1, total - 2 * quarter), "background": quarter, "keys": quarter}


class Bulkheads:
    """A pool for each kind of work."""

    def __init__(self, url: str, *, name: str, size: int, options: str) -> None:
        self.pools = {
            bulkhead: Pool(url, name=f"{name}-{bulkhead}", size=share, options=options)
            for bulkhead, share in shares(size).items()
        }

    async def open(self) -> None:
        """Starts to connect, and returns at once."""
        for pool in self.pools.values():
            await pool.open()

    async def close(self) -> None:
        """Closes what is idle; what is lent closes when it comes back."""
        for pool in self.pools.values():
            await pool.close()

    async def take(self, bulkhead: Bulkhead | None = None) -> Connection:
        """A connection of this bulkhead, or of the task's own; it goes back with `give_back`."""
        return await self.pools[bulkhead or current.get()].take()

    def give_back(self, connection: Connection) -> None:
        """Takes a connection back to where it came from."""
        if connection.lender is not None:
            connection.lender.give_back(connection)
