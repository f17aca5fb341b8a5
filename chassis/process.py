"""What the process of a service is set up with, beside its settings (docs/decisions/process.md)."""

import contextlib
import os
from collections.abc import Mapping

# Read by gRPC when it is imported, so whoever starts a process sets it.
ENVIRONMENT: Mapping[str, str] = {
    # The server reads its sockets where it waits for calls, and hands no call from thread to thread.
    "GRPC_EXPERIMENTS": "-event_engine_listener",
    # The core's own lines are no JSON, and would fill the log with every handshake that is refused.
    "GRPC_VERBOSITY": "NONE",
}


def schedule_for_throughput() -> None:
    """Has this thread, and those that it starts, wait for their turn on a busy machine (Linux; elsewhere nothing).

    Every call wakes threads of gRPC's, each of which would else push the one that woke it off its core amid its work.
    """
    if hasattr(os, "SCHED_BATCH"):
        with contextlib.suppress(PermissionError):  # a sandbox may not allow it
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
