"""A scratch worker in a process of its own, to be stopped, blocked or killed: CERTIFICATES, then prints its port.

It says its process id in every answer of Read and Open. SIGUSR1 blocks its event loop for long, as a handler that
computes would: gRPC's own threads go on.
"""

import asyncio
import os
import pathlib
import signal
import sys
import time
from typing import Any

from chassis import contract
from tests.unit.chassis.stand import FILES, Scratch, Thing, running

BLOCKED_SECONDS = 30.0


async def _name(_: Scratch, request: Any, call: Any) -> Any:
    return Thing(text=str(os.getpid()))


async def main(directory: pathlib.Path) -> None:
    for file in FILES:
        contract.register(file)
    Scratch.Read = Scratch.Open = _name  # type: ignore[method-assign, assignment]
    signal.signal(signal.SIGUSR1, lambda *_: time.sleep(BLOCKED_SECONDS))
    async with running(directory) as stand:
        print(stand.port, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(pathlib.Path(sys.argv[1])))
