"""Free TCP ports on the loopback interface."""

import random
import socket

from meshctl.core.failure import OperatorError

# Below the range of outgoing connections, so that a process that restarts finds its port free.
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
    """Hands out free ports, each one once, and none of `promised`: somebody will listen on those later."""

    def __init__(self, *promised: int) -> None:
        self._candidates = iter(random.sample(range(LOWEST, HIGHEST), HIGHEST - LOWEST))
        self._promised = frozenset(promised)

    def take(self) -> int:
        return next(port for port in self._candidates if port not in self._promised and is_free(port))


def require_free(port: int) -> None:
    """Raises OperatorError unless this process may listen on the port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except PermissionError:
            raise OperatorError(
                f"Port {port} needs more rights than this user has: choose a --port above 1023."
            ) from None
        except OverflowError:
            raise OperatorError(f"{port} is not a valid port: choose --port between 1 and 65535.") from None
        except OSError:
            raise OperatorError(f"Port {port} is taken: choose another with --port.") from None
