"""Free TCP ports on the loopback interface."""

import random
import socket

# Below the range of outgoing connections, so that a process which restarts finds its port free.
LOWEST, HIGHEST = 15000, 32000


def is_free(port: int, host: str = "127.0.0.1") -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


class Ports:
    """Hands out free ports, each one once."""

    def __init__(self) -> None:
        self._candidates = iter(random.sample(range(LOWEST, HIGHEST), HIGHEST - LOWEST))

    def take(self) -> int:
        return next(port for port in self._candidates if is_free(port))
