"""The set-up of a service's process, besides its settings (docs/decisions/process.md)."""

import contextlib
import os
from collections.abc import Mapping

# Read by gRPC when it is imported, so the parent that starts a process sets it.
ENVIRONMENT: Mapping[str, str] = {
    # The server reads its sockets in the thread that waits for calls, and hands no call from thread to thread.
    "GRPC_EXPERIMENTS": "-event_engine_listener",
    # The core's own log lines are not JSON, and would fill the log with refused handshakes.
    "GRPC_VERBOSITY": "NONE",
}


def schedule_for_throughput() -> None:
    """Makes this thread, and those that it starts, wait for their turn on a busy machine (Linux only).

    Every call wakes threads of gRPC, each of which would otherwise preempt the thread that woke it.
    """
    if hasattr(os, "SCHED_BATCH"):
        with contextlib.suppress(PermissionError):  # a sandbox may not allow it
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
