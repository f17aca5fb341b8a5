"""Bulkheads: different kinds of work on a database share no connections."""

from contextvars import ContextVar
from typing import Literal, get_args

from chassis.data.pool import Connection, Pool

# "calls" serves RPCs; "background" keeps the relay, consumers and a service's own workers going meanwhile; "keys" looks
# up idempotency keys and stores answers under them, which must not wait behind a burst of calls.
Bulkhead = Literal["calls", "background", "keys"]
BULKHEADS: tuple[Bulkhead, ...] = get_args(Bulkhead)

# The bulkhead that a task uses. Background work sets it once, and all tasks that it starts inherit it.
current: ContextVar[Bulkhead] = ContextVar("bulkhead", default="calls")


def shares(total: int) -> dict[Bulkhead, int]:
    """Divides a process's connections: a quarter for the background, a quarter for keys, and at least one for each."""
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
        """Starts to connect and returns immediately."""
        for pool in self.pools.values():
            await pool.open()

    async def close(self) -> None:
        """Closes idle connections; connections in use are closed when they are returned."""
        for pool in self.pools.values():
            await pool.close()

    async def take(self, bulkhead: Bulkhead | None = None) -> Connection:
        """Returns a connection of this bulkhead, by default the task's; return it with `give_back`."""
        return await self.pools[bulkhead or current.get()].take()

    def give_back(self, connection: Connection) -> None:
        """Returns a connection to its pool."""
        if connection.lender is not None:
            connection.lender.give_back(connection)
