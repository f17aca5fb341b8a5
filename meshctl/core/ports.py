"""TCP ports on the loopback interface, each held from the moment that it is chosen.

A socket that is bound and does not listen holds a port: its flags let the program that the port is meant for bind
beside it, and nobody who asks for the port as this module does.
"""

import os
import random
import socket
from typing import Self

from meshctl.core.failure import OperatorError

# Below the range of outgoing connections, so that a process that restarts finds its port free.
LOWEST, HIGHEST = 15000, 32000
LOOPBACK = "127.0.0.1"


class Ports:
    """Hands out free ports and holds them until `release`."""

    def __init__(self) -> None:
        self._candidates = iter(random.sample(range(LOWEST, HIGHEST), HIGHEST - LOWEST))
        self._held: list[socket.socket] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def take(self) -> int:
        return next(port for port in self._candidates if self._hold(port))

    def release(self) -> None:
        """Holds the ports no longer; who listens on one keeps it."""
        while self._held:
            self._held.pop().close()

    def _hold(self, port: int) -> bool:
        holder = socket.socket()
        try:
            # Exclusive, so that of two meshes that start at once only one gets the port.
            holder.bind((LOOPBACK, port))
        except OSError:
            holder.close()
            return False
        # Every server sets this flag too, and may now bind beside the holder.
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._held.append(holder)
        return True


def claim(port: int, owner: int = -1) -> socket.socket:
    """Returns a socket that holds the port for the edge until it is closed; `owner` is the edge's user id, if another.

    Raises OperatorError when the port belongs to another program or another mesh, even one that still starts.
    """
    holder = socket.socket()
    # Connections that have ended do not make a port taken.
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        holder.bind((LOOPBACK, port))
    except (OSError, OverflowError) as failure:
        holder.close()
        raise OperatorError(_refusal(port, failure)) from None
    # Envoy sets SO_REUSEPORT and may bind beside the holder. By itself it would share the port with any other Envoy;
    # another mesh that claims the port is refused.
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    # Only sockets of one user share a port.
    os.fchown(holder.fileno(), owner, -1)
    return holder


def _refusal(port: int, failure: Exception) -> str:
    if isinstance(failure, PermissionError):
        return f"Port {port} needs more rights than this user has: choose a --port above 1023."
    if isinstance(failure, OverflowError):
        return f"{port} is not a valid port: choose --port between 1 and 65535."
    return f"Port {port} is taken: choose another with --port."
